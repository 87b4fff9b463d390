"""Area, box and validity of run lengths are those of the mask that they decode to."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from maskformer import decode_rle, encode_mask, measure_rles
from maskformer.cpu.rle_shapes import LARGEST_MASK_PIXELS, RleShapes

MASKS = npst.arrays(np.bool_, st.tuples(st.integers(1, 90), st.integers(1, 9)))
STACKS = npst.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9)))


def measure_masks(
    rles: list[str], sizes: list[tuple[int, int]], *, images: list[int] | None = None
) -> RleShapes:
    encoded = [rle.encode("latin-1") for rle in rles]
    return measure_rles(
        np.frombuffer(b"".join(encoded), np.uint8),
        offsets=np.cumsum([0, *map(len, encoded)]),
        images=np.array(range(len(rles)) if images is None else images, np.int64),
        heights=np.array([height for height, _ in sizes], np.int64),
        widths=np.array([width for _, width in sizes], np.int64),
    )


@given(st.lists(MASKS, min_size=1, max_size=5))
def test_area_and_box_are_those_of_the_mask_and_of_pycocotools(masks):
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    shapes = measure_masks([each["counts"].decode() for each in encoded], [m.shape for m in masks])
    assert shapes.is_valid.all()
    assert shapes.areas.tolist() == [int(mask.sum()) for mask in masks]
    assert shapes.areas.tolist() == [int(coco.area(each)) for each in encoded]
    assert np.array_equal(shapes.boxes_xywh, [coco.toBbox(each) for each in encoded])


@given(MASKS)
def test_the_box_is_the_smallest_around_the_mask(mask):
    (box,) = measure_masks([encode_mask(mask)], [mask.shape]).boxes_xywh.tolist()
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    expected = (
        [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1] if mask.any() else [0] * 4
    )
    assert box == [int(side) for side in expected]


@given(STACKS)
def test_pixels_that_masks_of_one_image_share_are_counted(masks):
    rles, sizes = list(map(encode_mask, masks)), [masks.shape[1:]] * len(masks)
    shapes = measure_masks(rles, sizes, images=[7] * len(masks))
    earlier = np.concatenate([np.zeros_like(masks[:1]), np.logical_or.accumulate(masks)[:-1]])
    assert shapes.shared.tolist() == (masks & earlier).sum((1, 2)).tolist()


@given(STACKS)
def test_masks_of_several_images_share_nothing(masks):
    shapes = measure_masks(list(map(encode_mask, masks)), [masks.shape[1:]] * len(masks))
    assert not shapes.shared.any()


def assert_valid_as_the_decoder_says(rle: str, *, height: int, width: int) -> None:
    try:
        mask = decode_rle(rle, height=height, width=width)
    except ValueError:
        mask = None
    shapes = measure_masks([rle], [(height, width)])
    if mask is None or mask.size == 0:  # a mask has at least a pixel
        assert not shapes.is_valid.any()
        assert not shapes.areas.any()
    else:
        assert shapes.is_valid.all()
        assert shapes.areas.tolist() == [int(mask.sum())]


@given(st.text(st.characters(max_codepoint=127), max_size=12), st.integers(0, 9), st.integers(0, 9))
@example("", 1, 1)
@example("4", 2, 2)
@example("o", 1, 1)
@example("0o", 0, 0)
@example("1" + "P" * 12 + "0", 1, 1)
def test_what_the_decoder_refuses_is_not_valid_and_nothing_else(rle, height, width):
    assert_valid_as_the_decoder_says(rle, height=height, width=width)


@given(MASKS, st.data())
def test_a_changed_character_is_found_out_or_decodes_as_the_decoder_says(mask, data):
    rle = encode_mask(mask)
    place = data.draw(st.integers(0, len(rle) - 1))
    changed = rle[:place] + chr(data.draw(st.integers(40, 120))) + rle[place + 1 :]
    assert_valid_as_the_decoder_says(changed, height=mask.shape[0], width=mask.shape[1])


def test_one_that_is_not_valid_leaves_its_neighbours_alone():
    mask = np.eye(5, dtype=bool)
    rles = [encode_mask(mask), "\xff", "", encode_mask(~mask)]
    shapes = measure_masks(rles, [(5, 5)] * 4, images=[0] * 4)
    assert shapes.is_valid.tolist() == [True, False, False, True]
    assert shapes.areas.tolist() == [5, 0, 0, 20]
    assert not shapes.shared.any()


@pytest.mark.parametrize("size", [(-1, 4), (0, 0), (2**31, 2**31), (LARGEST_MASK_PIXELS, 2)])
def test_a_size_that_no_image_has_takes_no_memory(size):
    assert not measure_masks(["4"], [size]).is_valid.any()


def test_no_rles_have_no_shapes():
    assert len(measure_masks([], []).areas) == 0
