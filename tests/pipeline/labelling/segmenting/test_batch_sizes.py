"""Batches of a shape are about equal, and bounded in images and in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labelling.segmenting.batch_sizes import (
    MOST_IMAGES,
    MOST_TARGET_PIXELS,
    next_batch,
)

SHAPE = (512, 704)


def batches(
    num_images: int, *, most_pixels: int = 10**9, size: tuple[int, int] = (480, 640)
) -> list[int]:
    found = []
    while (left := num_images - sum(found)) > 0:
        found.append(next_batch([size] * left, padded_size=SHAPE, most_pixels=most_pixels))
    return found


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1, [1]), (33, [33]), (131, [131]), (132, [66, 66]), (256, [86, 85, 85]), (300, [100] * 3)],
)
def test_the_last_images_of_a_shape_join_the_batch_before(num_images, expected):
    assert batches(num_images) == expected


@given(st.integers(1, 700), st.integers(1, 10**8), st.integers(1, 20_000))
def test_each_image_is_in_one_batch_that_has_room(num_images, most_pixels, side):
    found = batches(num_images, most_pixels=most_pixels, size=(side, side))
    assert sum(found) == num_images
    for count in found:
        assert 1 <= count <= MOST_IMAGES
        assert count == 1 or count * SHAPE[0] * SHAPE[1] <= most_pixels
        assert count == 1 or count * side * side <= MOST_TARGET_PIXELS
