"""Pages whose tags contradict each other are damaged, and never filled up or guessed."""

import struct

import numpy as np
import pytest
from drawn_pixels import GREY, RGB, error, is_near, tiff

STRIPED = tiff((GREY, {"photometric": "minisblack", "rowsperstrip": 16}))
PLANES = tiff((RGB.transpose(2, 0, 1).copy(), {"photometric": "rgb", "planarconfig": "separate"}))
PREDICTED = tiff((GREY, {"compression": "lzw", "predictor": True}))
TILED = tiff((GREY, {"photometric": "minisblack", "tile": (16, 16)}))
COLOURS = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
PALETTE = tiff((GREY, {"photometric": "palette", "colormap": COLOURS}))
HEIGHT, WIDTH, COMPRESSION, PHOTOMETRIC, STRIP_ROWS, PLANAR, COLORMAP = (
    257,
    256,
    259,
    262,
    278,
    284,
    320,
)


def changed(data: bytes, tag: int, field: str, value: int) -> bytes:
    """The file with another `tag`, `type`, `count` or `value` in the entry of a tag."""
    (count,) = struct.unpack_from("<H", data, 8)
    [at] = [10 + 12 * n for n in range(count) if data[10 + 12 * n :][:2] == struct.pack("<H", tag)]
    offset, form = {"tag": (0, "H"), "type": (2, "H"), "count": (4, "I"), "value": (8, "I")}[field]
    copy = bytearray(data)
    struct.pack_into(f"<{form}", copy, at + offset, value)
    return bytes(copy)


@pytest.mark.parametrize(
    ("data", "tag", "field", "value", "said"),
    [
        (STRIPED, STRIP_ROWS, "value", 8, "must lie in 8 strips of 8 x 80, got 4 starts"),
        (STRIPED, HEIGHT, "value", 16, "must lie in 1 strips"),
        (STRIPED, WIDTH, "value", 81, "strips 0 must have 1296 bytes, got 1280"),
        (STRIPED, STRIP_ROWS, "value", 0, "must be 1 x 1 or larger"),
        (TILED, HEIGHT, "value", 128, "must lie in 40 tiles"),
        (STRIPED, PHOTOMETRIC, "type", 7, "tag 262 must stand once and hold one number"),
        (STRIPED, PHOTOMETRIC, "tag", WIDTH, "tag 256 must stand once"),
        (STRIPED, PHOTOMETRIC, "count", 2, "tag 262 must stand once"),
        (PLANES, PLANAR, "value", 3, "tag 284 must be one of (1, 2), got 3"),
        (PREDICTED, COMPRESSION, "value", 1, "its predictor needs a compression that has one"),
        (PALETTE, COLORMAP, "count", 300, "its palette must hold 768 numbers"),
        (PALETTE, COLORMAP, "value", 0, "values of tag 320 lie in the file's header"),
    ],
)
def test_a_contradiction_is_damage_that_names_the_tag(data, tag, field, value, said):
    found = error(changed(data, tag, field, value))
    assert found.error_class == "DamagedImage"
    assert said in found.message


def test_pixels_beyond_the_file_are_cut_off():
    whole = tiff((GREY, {"photometric": "minisblack"}))
    assert error(whole[:-100]).error_class == "TruncatedImage"


def test_the_same_files_without_a_change_are_read():
    assert is_near(STRIPED, GREY)
    assert is_near(TILED, GREY)
    assert is_near(PLANES, RGB)
