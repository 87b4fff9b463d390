"""What a batch asks of a GPU, from pixels to runs, counted on a CPU: launches and waits."""

import dataclasses

import numpy as np
import pytest
import torch
from counted_operations import launches, reads
from segmented_pictures import RULES, TASKS, processor_with

from maskformer.cpu import winograd
from maskformer.network import window_attention
from pipeline.labelling.segmenting.batch_segmenter import BatchSegmenter
from pipeline.labelling.segmenting.model_inputs import LoadedImage
from pipeline.labelling.settings import SegmentSettings

pytestmark = pytest.mark.usefixtures("one_thread", "as_on_a_gpu")

SIZE = (40, 56)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(window_attention, "saves_bytes", lambda tokens: True)
    monkeypatch.setattr(winograd, "suits", lambda maps, kernels: False)


def photographs(count: int, settings: SegmentSettings) -> list[LoadedImage]:
    """Draws photographs of one size, which the device resizes."""
    random = np.random.default_rng(count)
    return [
        LoadedImage(
            key=("u", number),
            uri=f"{number}.jpg",
            size=SIZE,
            pixels=random.integers(0, 256, (*SIZE, 3), np.uint8),
            model_size=processor_with(settings.resize_rule).resized_size(SIZE),
        )
        for number in range(count)
    ]


@RULES
@TASKS
@torch.inference_mode()
def test_a_batch_is_launched_without_a_wait_and_64_images_as_4(model_files, settings, rule):
    settings = dataclasses.replace(settings, resize_rule=rule)
    segmenter = BatchSegmenter(model_files, settings=settings, num_threads=1)
    few, many = photographs(4, settings), photographs(64, settings)
    segmenter.start(few)  # makes what is kept for the shape
    assert reads(lambda: segmenter.start(many)) == []

    def launched(batch: list[LoadedImage]) -> int:
        # Masks are two more on a GPU; on a CPU they are made image by image.
        inputs = segmenter.model_inputs
        return launches(lambda: segmenter.model.decode_queries(inputs(batch))).total()

    assert launched(many) == launched(few)
