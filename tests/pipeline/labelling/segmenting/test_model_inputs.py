"""Pixels of a block reach the model as the image processor gives them, uncopied on the way."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from maskformer import MaskFormerImageProcessor
from pipeline.labelling.reading.unit_loader import BLOCK
from pipeline.labelling.segmenting import pinned_uploads
from pipeline.labelling.segmenting.model_inputs import ModelInputs, images_of, without_pixels

SIZES = [(32, 64), (64, 32), (32, 64), (32, 64)]


def row(position: int, *, size: tuple[int, int] | None) -> dict:
    """A row of a block, with drawn pixels of a size or with none."""
    fields = {"unit_id": "u", "kind": "image", "position": position, "uri": f"{position}.png"}
    if size is None:
        return fields | {"error_class": "NotAnImage"}
    height, width = size
    pixels = np.random.default_rng(position).integers(0, 256, (height, width, 3), np.uint8)
    return fields | {
        "height": 2 * height,
        "width": 2 * width,
        "pixels": pixels.tobytes(),
        "pixels_height": height,
        "pixels_width": width,
        "model_height": height,
        "model_width": width,
    }


def pixel_block(sizes: list[tuple[int, int] | None], *, first: int = 0) -> pa.Table:
    rows = [row(first + n, size=size) for n, size in enumerate(sizes)]
    return pa.Table.from_pylist(rows, schema=BLOCK)


def test_images_are_views_of_a_block_of_several_chunks_and_offsets_with_rows_without_pixels():
    chunks = [
        pixel_block([(9, 9), SIZES[0], None, SIZES[1]]).slice(1),
        pixel_block([None, (5, 7)], first=4),
    ]
    table = pa.concat_tables(chunks)
    images = images_of(table)
    assert [image.key for image in images] == [("u", 1), ("u", 3), ("u", 5)]
    assert [image.size for image in images] == [(64, 128), (128, 64), (10, 14)]
    expected = [each for each in table.to_pylist() if each["pixels"] is not None]
    for image, fields in zip(images, expected, strict=True):
        shape = (fields["pixels_height"], fields["pixels_width"], 3)
        assert image.model_size == image.pixels.shape[:2] == shape[:2]
        assert image.pixels.tobytes() == fields["pixels"]
    buffers = [chunk.buffers()[2] for chunk in table["pixels"].chunks]
    for image, buffer in zip(images, [buffers[0], buffers[0], buffers[1]], strict=True):
        start = image.pixels.ctypes.data
        assert buffer.address <= start < buffer.address + buffer.size


def test_a_block_without_pixels_has_no_images_and_keeps_its_rows():
    table = pixel_block([None, None])
    assert images_of(table) == []
    rows = without_pixels(table).to_pylist()
    assert rows == [
        {name: value for name, value in fields.items() if name not in ("pixels", "jpeg")}
        for fields in table.to_pylist()
    ]


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_are_those_of_the_image_processor_for_each_image(rule, dtype):
    processor = MaskFormerImageProcessor(resize_rule=rule)
    sizes = SIZES if rule == "transformers" else [(33, 60), (40, 50), (40, 50), (64, 64)]
    images = images_of(pixel_block(sizes))
    for batch in [images[2:]] if rule == "transformers" else [images, images[1:3]]:
        values = ModelInputs(processor, device=torch.device("cpu"), dtype=dtype)(batch)
        for value, image in zip(values, batch, strict=True):
            pixels = torch.from_numpy(image.pixels.copy())[None]
            assert torch.equal(value, processor.normalize(pixels, dtype=dtype)[0])
        assert values.is_contiguous(memory_format=torch.channels_last)


class Event:
    """An event of a stream that has done its work whenever one looks."""

    waits = 0

    def __init__(self) -> None:
        self.is_over = True

    def query(self) -> bool:
        return self.is_over

    def synchronize(self) -> None:
        Event.waits += 1
        self.is_over = True

    def record(self, stream: object) -> None:
        self.is_over = False


class Stream:
    def __init__(self, device: object = None) -> None:
        self.awaited: list[Event] = []

    def wait_event(self, event: Event) -> None:
        self.awaited.append(event)


def test_uploads_go_through_three_slots_that_wait_for_their_last_copy_alone(monkeypatch):
    """On a pretended GPU: slots are used in turn, and what was uploaded keeps its bytes."""
    current, sizes = Stream(), []

    def pinned(num_bytes: int) -> torch.Tensor:
        sizes.append(num_bytes)
        return torch.zeros(num_bytes, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor.clone())
    monkeypatch.setattr(pinned_uploads, "_pinned", pinned)
    upload = pinned_uploads.PinnedUploads(torch.device("cpu"))
    random = np.random.default_rng(0)
    batches = [
        [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES[: 1 + n % 4]]
        for n in range(7)
    ]
    uploaded = [upload(batch) for batch in batches]
    for stacks, batch in zip(uploaded, batches, strict=True):
        found = [array for stack in stacks for array in stack]
        assert all(np.array_equal(a, b) for a, b in zip(found, batch, strict=True))
    assert [len(stack) for stack in uploaded[3]] == [1, 1, 2]
    assert (len(current.awaited), len({*map(id, current.awaited)})) == (7, 3)
    assert Event.waits == 4
    of_one = 32 * 64 * 3
    assert sizes == [of_one, 2 * of_one, 3 * of_one, 4 * of_one]  # the first slot grew once
