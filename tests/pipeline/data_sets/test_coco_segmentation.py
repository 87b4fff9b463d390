"""Segmentations become the masks that pycocotools makes of them, or are refused by a rule."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from maskformer import decode_rle, encode_mask
from pipeline.datasets.coco_segmentation import (
    LONGEST_OUTLINE,
    SegmentationError,
    check_segmentation,
    segmentation_rle,
)

HEIGHT, WIDTH = 24, 32
SIZE = {"height": HEIGHT, "width": WIDTH}
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]
RUNS = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}


def text(segmentation: object) -> bytes:
    return json.dumps(segmentation).encode()


def mask_of(segmentation: object) -> np.ndarray:
    check_segmentation(text(segmentation), **SIZE)
    return decode_rle(segmentation_rle(text(segmentation), **SIZE), **SIZE)


def by_pycocotools(segmentation: object) -> np.ndarray:
    encoded = coco.frPyObjects(segmentation, HEIGHT, WIDTH)
    return coco.decode(coco.merge(encoded) if isinstance(encoded, list) else encoded) > 0


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        [SQUARE, [20, 10, 28.5, 10.25, 24, 20]],
        [[-3, -2.5, 40, 4, 35.5, 30, 2, 26]],  # over all four edges
        [[2, 2, 20, 20, 20, 2, 2, 20]],  # crosses itself: as much area to the left as to the right
        [[2, 2, 22, 2.3, 22, 4]],
        RUNS,
        {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]},
    ],
)
def test_a_mask_is_the_one_that_pycocotools_makes(segmentation: object) -> None:
    np.testing.assert_array_equal(mask_of(segmentation), by_pycocotools(segmentation))


def test_a_square_holds_its_pixels() -> None:
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(mask_of([SQUARE]), expected)


def test_compressed_run_lengths_stay_as_they_are() -> None:
    mask = np.eye(HEIGHT, WIDTH, dtype=bool)
    counts = encode_mask(mask)
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    assert segmentation_rle(text(segmentation), **SIZE) == counts
    np.testing.assert_array_equal(mask_of(segmentation), mask)


def test_parts_of_a_polygon_without_three_points_add_nothing() -> None:
    """A first part of four numbers is a box to pycocotools, and would become a mask."""
    for part in ([20, 10, 8, 8], [20, 10], []):
        np.testing.assert_array_equal(mask_of([part, SQUARE]), mask_of([SQUARE]))


LONG = [[0, 0, WIDTH, HEIGHT] * (LONGEST_OUTLINE // WIDTH)]


@pytest.mark.parametrize(
    ("segmentation", "place", "rule"),
    [
        (None, (), "must be polygons"),
        ([], (), "must be polygons"),
        ({}, (), "must have size"),
        ("10 10 20 20", (), "must be polygons"),
        (7, (), "must be polygons"),
        ([[]], (), "three points"),
        ([10, 10, 5, 5], (), "a box is no outline"),
        ([[10, 10, 5, 5]], (), "three points"),
        (SQUARE, (), "each in a list of its own"),
        ([[4, 4], [12, 4], [12, 12]], (), "all points of a polygon in one list"),
        ([[[4, 4], [12, 4], [12, 12]]], (0, 0), "must be a number"),
        ([SQUARE, SQUARE[:-1]], (1,), "a y for each x"),
        ([[4, 4, None, 4, 12, 12]], (0, 2), "must be a number"),
        ([[4, 4, True, 4, 12, 12]], (0, 2), "must be a number"),
        ([[4, 4, "12", 4, 12, 12]], (0, 2), "must be a number"),
        ([[4, 4, 1e9, 4, 12, 12]], (0, 2), "its width of 32 pixels beside"),
        ([[4, 4, 12, -25, 12, 12]], (0, 3), "its height of 24 pixels beside"),
        ([[4, 4, 10**400, 4, 12, 12]], (0, 2), "must be a number"),
        ([[4, 4, 10, 10, 20, 20]], (), "enclose a pixel"),
        ([[4, 4, 4, 4, 4, 4]], (), "enclose a pixel"),
        ([[-20, -20, -4, -20, -4, -4]], (), "enclose a pixel"),
        ([SQUARE + SQUARE], (), "enclose a pixel"),  # twice around is outside again
        ([[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]], (), "not in shares"),
        (LONG, (0,), "an outline of at most"),
        ({"size": [HEIGHT, WIDTH]}, (), "must have counts"),
        ({"counts": [768]}, (), "must have size"),
        (RUNS | {"size": [WIDTH, HEIGHT]}, ("size",), r"must be \[24, 32\]"),
        (RUNS | {"size": [10**9, 10**9]}, ("size",), r"must be \[24, 32\]"),
        (RUNS | {"size": ["24", "32"]}, ("size", 0), "must be a whole number"),
        (RUNS | {"counts": None}, ("counts",), "must be a text or a list"),
        (RUNS | {"counts": []}, ("counts",), "must add up to 24 x 32 = 768"),
        (RUNS | {"counts": [100, -50, 718]}, ("counts", 1), "must be in 0 to 768"),
        (RUNS | {"counts": [100, 50]}, ("counts",), "must add up"),
        (RUNS | {"counts": [2**63, 2**63, 768]}, ("counts", 0), "must be in 0 to 768"),
        (RUNS | {"counts": [100, 50.5, 617.5]}, ("counts", 1), "must be a whole number"),
        (RUNS | {"counts": [0] * 2000 + [768]}, ("counts",), "must add up"),
        (RUNS | {"counts": [768]}, ("counts",), "must have a pixel"),
        (RUNS | {"counts": ""}, ("counts",), "COCO's compressed counts"),
        (RUNS | {"counts": "b'PPYo'"}, ("counts",), "COCO's compressed counts"),
        (RUNS | {"counts": "~" * 50}, ("counts",), "COCO's compressed counts"),
        (RUNS | {"counts": "oooooooooooo0"}, ("counts",), "COCO's compressed counts"),
    ],
)
def test_what_makes_no_mask_is_refused_with_its_place(
    segmentation: object, place: tuple[str | int, ...], rule: str
) -> None:
    with pytest.raises(SegmentationError, match=rule) as caught:
        check_segmentation(text(segmentation), **SIZE)
    assert caught.value.path == place


numbers = (
    st.integers(-2, 40)
    | st.floats(-50, 90)
    | st.sampled_from([None, True, "1", 1e9, -1e9, 1e308, 2**31, 2**63, -(2**63), 10**30, [], {}])
)
polygons = st.lists(st.integers(-10, 40) | st.floats(-10, 40), max_size=12)
damaged = st.lists(numbers, max_size=12)
counts = st.lists(st.integers(0, 400), max_size=6).map(
    lambda found: [*found, max(HEIGHT * WIDTH - sum(found), 0)]
)
segmentations = (
    st.lists(polygons, max_size=3)
    | st.lists(polygons | damaged, max_size=3)
    | damaged
    | st.fixed_dictionaries(
        {},
        optional={
            "size": st.just([HEIGHT, WIDTH]) | damaged,
            "counts": counts | damaged | st.text("0123456789:;PQYZ`abno", max_size=12) | st.text(),
        },
    )
    | numbers
)


def check_mask_or_refusal(segmentation: object) -> None:
    """The mask that pycocotools makes, or a refusal: never anything else."""
    try:
        check_segmentation(text(segmentation), **SIZE)
    except SegmentationError:
        return
    mask = decode_rle(segmentation_rle(text(segmentation), **SIZE), **SIZE)
    assert mask.any()
    if isinstance(segmentation, list):
        segmentation = [list(map(float, p)) for p in segmentation if len(p) >= 6]
    elif isinstance(segmentation["counts"], str):
        assert segmentation_rle(text(segmentation), **SIZE) == segmentation["counts"]
        return
    np.testing.assert_array_equal(mask, by_pycocotools(segmentation))


@settings(max_examples=100)
@given(segmentations)
def test_whatever_is_drawn_is_a_right_mask_or_refused(segmentation: object) -> None:
    check_mask_or_refusal(segmentation)


@pytest.mark.faults
@settings(max_examples=10_000)
@given(segmentations)
def test_of_ten_thousand_each_is_a_right_mask_or_refused(segmentation: object) -> None:
    check_mask_or_refusal(segmentation)


@settings(max_examples=100)
@given(st.text('[]{},:.-+0123456789eE"NaIfity ', max_size=40).map(str.encode) | st.binary())
def test_a_text_that_is_no_segmentation_is_refused(data: bytes) -> None:
    with pytest.raises(SegmentationError):
        check_segmentation(data, **SIZE)


@settings(max_examples=60)
@given(
    st.floats(0.05, 5),
    st.floats(0, math.pi),
    st.floats(2, 20),
    st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)),
)
def test_a_thin_object_is_refused_just_where_it_has_no_pixel(
    thickness: float, angle: float, length: float, centre: tuple[float, float]
) -> None:
    along = np.array([math.cos(angle), math.sin(angle)]) * length / 2
    across = np.array([-along[1], along[0]]) * thickness / length
    corners = np.array([along + across, along - across, -along - across, across - along])
    segmentation = [(corners + centre).flatten().tolist()]
    has_pixels = by_pycocotools(segmentation).any()
    try:
        check_segmentation(text(segmentation), **SIZE)
    except SegmentationError:
        assert not has_pixels
    else:
        assert has_pixels
