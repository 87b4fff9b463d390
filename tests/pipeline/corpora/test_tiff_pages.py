"""The picture of a TIFF is its full-size page, whatever lies before it."""

import struct

import numpy as np
import pytest
from drawn_pixels import GREY, RGB, error, is_near, tag, tiff

SMALL = np.ascontiguousarray(RGB[::8, ::8])
COLOURS = {"photometric": "rgb"}
COPY = {**COLOURS, "subfiletype": 1}
PLANES = np.ascontiguousarray(RGB.transpose(2, 0, 1).astype(np.uint16) * 257)

FILES = {
    "a copy that says so": [(SMALL, COPY), (RGB, COLOURS)],
    "a copy that says nothing": [(SMALL, COLOURS), (RGB, COLOURS)],
    "a copy with the picture in a sub-image": [(SMALL, {**COPY, "subifds": 1}), (RGB, COLOURS)],
    "the same, packed": [
        (SMALL, {**COPY, "subifds": 1}),
        (RGB, {**COLOURS, "compression": "deflate", "predictor": True, "tile": (16, 16)}),
    ],
    "the same, in planes of 16 bits": [
        (SMALL, {**COPY, "subifds": 1}),
        (PLANES, {**COLOURS, "planarconfig": "separate"}),
    ],
    "a copy that says nothing with the picture in a sub-image": [
        (SMALL, {**COLOURS, "subifds": 1}),
        (RGB, COLOURS),
    ],
    "a pyramid": [
        (RGB, {**COLOURS, "subifds": 2}),
        (np.ascontiguousarray(RGB[::2, ::2]), COPY),
        (SMALL, COPY),
    ],
    "a mask": [(GREY > 9, {"subfiletype": 4, "photometric": "minisblack"}), (RGB, COLOURS)],
    "pages of one size": [(RGB, COLOURS), (255 - RGB, COLOURS)],
    "pages that are numbered": [
        (RGB, {**COLOURS, "extratags": [tag(297, 0, 2)]}),
        (RGB.repeat(2, 0).repeat(2, 1), {**COLOURS, "extratags": [tag(297, 1, 2)]}),
    ],
    "pages of other shapes": [(RGB, COLOURS), (RGB.repeat(2, 0).repeat(4, 1), COLOURS)],
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_big", [False, True])
def test_the_picture_is_found(kind, order, is_big):
    assert is_near(tiff(*FILES[kind], byteorder=order, bigtiff=is_big), RGB)


def test_a_sub_image_is_turned_as_its_page():
    turned = {**COPY, "subifds": 1, "extratags": [tag(274, 6)]}
    assert is_near(tiff((SMALL, turned), (RGB, COLOURS)), np.rot90(RGB, -1))


def test_only_copies_give_the_largest():
    assert is_near(tiff((SMALL, COPY), (RGB, COPY)), RGB)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.startswith("a copy")])
def test_a_copy_is_never_taken_for_the_picture_that_was_cut_off(kind):
    data = tiff(*FILES[kind])
    for cut in range(1, len(data), 499):
        assert error(data[:-cut]).error_class in ("TruncatedImage", "DamagedImage", "NotAnImage")


def with_tag(data: bytes, code: int, value: int) -> bytes:
    """A little-endian file whose first page has a number of 32 bits for a tag that it has."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    places = range(start + 2, start + 2 + 12 * count, 12)
    (at,) = (at for at in places if int.from_bytes(data[at : at + 2], "little") == code)
    return data[: at + 2] + struct.pack("<HII", 4, 1, value) + data[at + 12 :]


def test_pages_in_a_ring_end():
    data = tiff((RGB, COLOURS))
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    assert is_near(data[:end] + start.to_bytes(4, "little") + data[end + 4 :], RGB)


@pytest.mark.parametrize("value", [0, 5, 2**20, 2**32 - 1])
def test_a_number_of_samples_that_cannot_be_is_an_error_at_once(value):
    data = with_tag(tiff((GREY, {})), 277, value)
    assert error(data).error_class in ("UnsupportedPixels", "DamagedImage")
