"""The pixels that run lengths of two sides share are those of the masks that they decode to."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from maskformer import encode_mask, overlap_rles
from maskformer.cpu.rle_overlaps import RleOverlaps

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 9))
SIDES = SIZES.flatmap(
    lambda size: st.tuples(
        *(npst.arrays(np.bool_, st.tuples(st.integers(0, 4), *map(st.just, size))) for _ in "ab")
    )
)


def overlapped(
    images: list[tuple[np.ndarray, np.ndarray]], *, break_first: bool = False, **options: bool
) -> RleOverlaps:
    masks = [(n, side, m) for n, pair in enumerate(images) for side in (0, 1) for m in pair[side]]
    rles = [encode_mask(mask).encode() for _, _, mask in masks]
    if break_first:
        rles[0] = b"~"
    return overlap_rles(
        np.frombuffer(b"".join(rles), np.uint8),
        offsets=np.cumsum([0, *map(len, rles)]),
        images=np.array([n for n, _, _ in masks], np.int64),
        is_second=np.array([side == 1 for _, side, _ in masks], bool),
        heights=np.array([mask.shape[0] for _, _, mask in masks], np.int64),
        widths=np.array([mask.shape[1] for _, _, mask in masks], np.int64),
        **options,
    )


def decoded_overlaps(images: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, int, int]]:
    found, place = [], 0
    for first, second in images:
        for a, one in enumerate(first):
            for b, two in enumerate(second):
                if pixels := int((one & two).sum()):
                    found.append((place + a, place + len(first) + b, pixels))
        place += len(first) + len(second)
    return found


def triples(overlaps: RleOverlaps) -> list[tuple[int, int, int]]:
    columns = (overlaps.first, overlaps.second, overlaps.pixels)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(st.lists(SIDES, min_size=1, max_size=4))
def test_shared_pixels_are_those_of_the_masks(images):
    overlaps = overlapped(images)
    assert triples(overlaps) == decoded_overlaps(images)
    assert overlaps.areas.tolist() == [int(m.sum()) for a, b in images for m in (*a, *b)]
    assert overlaps.is_valid.all()


def disjoint(masks: np.ndarray) -> np.ndarray:
    """The masks without the pixels of those before them."""
    return np.array([m & ~masks[:n].any(0) for n, m in enumerate(masks)], bool).reshape(masks.shape)


@given(st.lists(SIDES, min_size=1, max_size=4))
def test_masks_that_share_no_pixel_give_the_same_when_painted(images):
    apart = [(disjoint(one), two) for one, two in images]
    overlaps = overlapped(apart, is_disjoint=True)
    assert triples(overlaps) == decoded_overlaps(apart)


def test_iou_is_that_of_pycocotools():
    random = np.random.default_rng(0)
    one, two = (random.random((5, 60, 80)) < 0.3 for _ in range(2))
    overlaps = overlapped([(one, two)])
    iou = np.zeros((5, 5))
    shared, second = overlaps.pixels, overlaps.second - 5
    areas = overlaps.areas
    union = areas[overlaps.first] + areas[overlaps.second] - shared
    iou[overlaps.first, second] = shared / union
    rles = [[coco.encode(np.asfortranarray(m, np.uint8)) for m in side] for side in (one, two)]
    assert np.allclose(iou, coco.iou(*rles, [False] * 5))


def test_more_pairs_than_fit_at_first_are_all_found():
    ones = np.ones((40, 3, 3), bool)
    overlaps = overlapped([(ones, ones)])
    assert len(overlaps.pixels) == 1600
    assert set(overlaps.pixels.tolist()) == {9}


def test_no_mask_overlaps_what_is_no_mask():
    ones = np.ones((2, 3, 3), bool)
    for options in ({}, {"is_disjoint": True}):
        check_first_is_left_out(overlapped([(ones, ones)], break_first=True, **options))


def check_first_is_left_out(overlaps: RleOverlaps) -> None:
    assert overlaps.is_valid.tolist() == [False, True, True, True]
    assert triples(overlaps) == [(1, 2, 9), (1, 3, 9)]
