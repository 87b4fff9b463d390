"""What does not fit into memory is split, seen smaller, or recorded, as the settings say."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from segmented_pictures import LARGEST, PANOPTIC, TASKS, assert_alike, masks

from maskformer import MaskFormerImageProcessor
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def decoding_at_most(pixels: int, segmenter: Segmenter) -> tuple[Callable[..., Any], list[int]]:
    """Returns a decoding with memory for so many pixels, and the list of its batches' pixels."""
    decode, sizes = segmenter._batch_segmenter.model.decode_queries, []

    def decode_queries(pixel_values: torch.Tensor) -> Any:
        batch, _, height, width = pixel_values.shape
        if batch * height * width > pixels:
            raise torch.OutOfMemoryError(f"no memory for {batch} x {height} x {width}")
        sizes.append(batch * height * width)
        return decode(pixel_values)

    return decode_queries, sizes


@pytest.fixture
def by_batch(model_files) -> Segmenter:
    """Makes a segmenter that works as on a GPU, with batches of all pictures."""
    settings = dataclasses.replace(PANOPTIC, batch_pixels=10**7)
    return Segmenter(model_files, settings=settings, num_threads=1, way="by_batch")


@pytest.fixture
def make_small(make, monkeypatch):
    """Makes segmenters on a device with memory for so many pixels at once."""

    def small(settings: SegmentSettings, *, pixels: int, **changes: Any) -> Segmenter:
        segmenter = make(settings, **changes)
        limited, _ = decoding_at_most(pixels, segmenter)
        monkeypatch.setattr(segmenter._batch_segmenter.model, "decode_queries", limited)
        return segmenter

    return small


@pytest.fixture(scope="module")
def large_block(blocks) -> pa.Table:
    """Loads the pictures at sizes that can be halved."""
    return blocks(MaskFormerImageProcessor(size={"shortest_edge": 256, "longest_edge": 640}))


def test_by_batch_a_batch_that_does_not_fit_is_split(by_batch, make, block, monkeypatch):
    """First it waits for the batches in flight, then it is halved."""
    limited, sizes = decoding_at_most(LARGEST, by_batch)
    monkeypatch.setattr(by_batch._batch_segmenter.model, "decode_queries", limited)
    drained = Mock(side_effect=by_batch._in_flight.drain)
    by_batch._in_flight.drain = drained
    found = by_batch(block)
    assert_alike(found, make(PANOPTIC)(block))
    assert drained.called
    assert max(sizes) <= LARGEST
    assert by_batch(block).equals(found)


def test_by_batch_an_image_that_fits_nowhere_is_recorded(by_batch, block, monkeypatch):
    limited, _ = decoding_at_most(0, by_batch)
    monkeypatch.setattr(by_batch._batch_segmenter.model, "decode_queries", limited)
    classes = {row["error_class"] for row in by_batch(block).to_pylist() if row["kind"] == "image"}
    assert classes == {"NotAnImage", "SegmenterOutOfMemory"}


@TASKS
def test_a_batch_that_does_not_fit_is_split(make, make_small, block, settings):
    expected = make(settings, batch_pixels=1)(block)
    found = make_small(settings, pixels=LARGEST, batch_pixels=10**7)(block)
    assert_alike(found, expected)


def test_an_image_that_does_not_fit_is_an_error_and_the_others_go_on(make, make_small, block):
    expected = make(PANOPTIC)(block).to_pylist()
    found = make_small(PANOPTIC, pixels=64 * 64)(block).to_pylist()
    classes = {row["error_class"] for row in found if row["kind"] == "image"}
    assert classes == {None, "NotAnImage", "SegmenterOutOfMemory"}
    for ours, theirs in zip(found, expected, strict=True):
        if ours["error_class"] == "SegmenterOutOfMemory":
            assert (ours["status"], ours["num_segments"], ours["segments"]) == ("error", 0, [])
            assert re.search(r"\d\.png: .* no memory for \d+ x \d+ pixels", ours["error_message"])
        else:
            assert ours["status"] == theirs["status"]


@TASKS
@pytest.mark.parametrize("policy", ["shrink", "tile"])
@pytest.mark.parametrize("divisor", [2, 6])
def test_an_image_may_be_seen_smaller_or_part_by_part(
    make, make_small, large_block, settings, policy, divisor
):
    expected = make(settings)(large_block).to_pylist()
    small = make_small(settings, pixels=16 * LARGEST // divisor, out_of_memory=policy)
    for ours, theirs in zip(small(large_block).to_pylist(), expected, strict=True):
        assert (ours["status"], ours["error_class"]) == (theirs["status"], theirs["error_class"])
        if ours["status"] == "ok":
            together = sum(mask.astype(int) for mask in masks(ours).values())
            assert np.max(together) <= 1
            if settings.task == "semantic":
                assert np.min(together) == 1
                assert len({s["label"] for s in ours["segments"]}) == ours["num_segments"]


@pytest.mark.parametrize("policy", ["record", "shrink", "tile"])
def test_where_nothing_fits_the_image_is_recorded(make_small, large_block, policy):
    found = make_small(PANOPTIC, pixels=0, out_of_memory=policy)(large_block)
    classes = {row["error_class"] for row in found.to_pylist() if row["kind"] == "image"}
    assert classes == {"NotAnImage", "SegmenterOutOfMemory"}


def test_what_is_no_want_of_memory_is_raised(make, block, monkeypatch):
    segmenter = make(PANOPTIC)
    failing = Mock(side_effect=RuntimeError("shapes do not match"))
    monkeypatch.setattr(segmenter._batch_segmenter.model, "decode_queries", failing)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        segmenter(block)
