"""Runs of masks: what pycocotools says of the masks, without making any of them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from maskformer import area_of, decode_rle, is_overlapping, painted, rle_runs

stacks = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    elements=st.integers(0, 1),
)


def cocos_counts(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


@settings(max_examples=100, deadline=None)
@given(stacks)
def test_runs_have_the_pixels_of_their_masks(stack: np.ndarray) -> None:
    _, height, width = stack.shape
    masks = [rle_runs(cocos_counts(mask), height=height, width=width) for mask in stack]
    assert [area_of(runs) for runs in masks] == stack.sum((1, 2)).tolist()
    assert is_overlapping(masks) == bool((stack.sum(0) > 1).any())
    expected = np.zeros((height, width), int)
    for number, mask in enumerate(stack, start=1):
        expected[mask > 0] = number
    ids = painted(masks, range(1, len(masks) + 1), height=height, width=width)
    np.testing.assert_array_equal(ids, expected)
    assert ids.flags.c_contiguous


@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_a_painted_map_has_the_smallest_type_that_holds_its_ids(highest: int, dtype: type) -> None:
    runs = rle_runs(cocos_counts(np.ones((2, 3))), height=2, width=3)
    assert painted([runs], [highest], height=2, width=3).dtype == dtype
    assert not painted([], [], height=2, width=3).any()


def test_runs_of_another_size_are_refused_as_decoding_refuses_them() -> None:
    for read in (rle_runs, decode_rle):
        with pytest.raises(ValueError, match="must add up to its mask's pixels, got 6 for 2x4"):
            read(cocos_counts(np.ones((2, 3))), height=2, width=4)


def test_painting_takes_memory_by_the_image_and_not_by_its_masks() -> None:
    height, width = 1500, 2000
    rle = cocos_counts(np.ones((height, width)))
    tracemalloc.start()
    masks = [rle_runs(rle, height=height, width=width) for _ in range(100)]
    painted(masks, range(1, 101), height=height, width=width)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * height * width
