"""Bytes that are resized on a device are Pillow's, all of them."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskformer import MaskFormerImageProcessor
from maskformer.preprocessing import device_resize, resizing

SIDES = st.integers(1, 120)


def noisy_pixels(count: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Pixels of noise, with black and white beside each other, where sums go past 0 and 255."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, height, width, 3), np.uint8)
    extreme = random.random(pixels.shape) < 0.3
    return np.where(extreme, 255 * (pixels > 127), pixels).astype(np.uint8)


def differing(pixels: np.ndarray, size: tuple[int, int], resample: int) -> int:
    found = device_resize.resize_bytes(torch.from_numpy(pixels), size=size, resample=resample)
    expected = [resizing.resize_image(each, size=size, resample=resample) for each in pixels]
    return int((found.numpy() != np.stack(expected)).sum())


@settings(max_examples=150)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(resizing.DEVICE_FILTERS))
@example(1, 1, 40, 50, Image.Resampling.BILINEAR)
@example(40, 50, 1, 1, Image.Resampling.BICUBIC)
@example(1, 90, 90, 1, Image.Resampling.BILINEAR)
@example(5, 2, 1, 1, Image.Resampling.BILINEAR)  # Pillow 13 begins with the height
@example(33, 47, 33, 47, Image.Resampling.BILINEAR)
def test_no_byte_differs_from_pillows_up_or_down_along_either_axis(h, w, new_h, new_w, resample):
    assert differing(noisy_pixels(2, h, w), (new_h, new_w), resample) == 0


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("size", [(427, 640), (333, 500), (612, 612), (1500, 2000), (100, 31)])
def test_no_byte_of_a_photographs_size_differs_from_the_image_processors(rule, size):
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 512, "longest_edge": 2048}, resize_rule=rule
    )
    (pixels,) = noisy_pixels(1, *size)
    expected = processor.resize(Image.fromarray(pixels))
    found = processor.resize_on_device(
        torch.from_numpy(pixels)[None], size=processor.resized_size(size)
    )
    assert np.array_equal(found[0].numpy(), expected)


def test_a_batch_is_resized_in_pieces_of_bounded_memory(monkeypatch):
    monkeypatch.setattr(device_resize, "_VALUES_AT_ONCE", 2 * 40 * 50 * 3)
    assert differing(noisy_pixels(5, 40, 50), (20, 30), Image.Resampling.BILINEAR) == 0


def test_a_filter_that_is_not_known_is_left_to_the_reader():
    assert MaskFormerImageProcessor().can_resize_on_device
    assert not MaskFormerImageProcessor(resample=Image.Resampling.LANCZOS).can_resize_on_device
    assert set(device_resize._FILTERS) == set(resizing.DEVICE_FILTERS)


def test_an_image_of_the_right_size_is_not_touched():
    pixels = torch.from_numpy(noisy_pixels(2, 32, 64))
    processor = MaskFormerImageProcessor(do_resize=False)
    assert processor.resize_on_device(pixels, size=(32, 64)) is pixels
    assert MaskFormerImageProcessor().resize_on_device(pixels, size=(32, 64)) is pixels
