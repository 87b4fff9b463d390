"""Pages whose tags contradict each other are damaged, and never filled up or guessed."""

import io
import struct

import numpy as np
import pytest
import tifffile
from drawn_pixels import GREY, RGB, error, is_near, tiff

STRIPED = tiff((GREY, {"photometric": "minisblack", "rowsperstrip": 16}))
PLANES = tiff((RGB.transpose(2, 0, 1).copy(), {"photometric": "rgb", "planarconfig": "separate"}))
PREDICTED = tiff((GREY, {"compression": "lzw", "predictor": True}))
TILED = tiff((GREY, {"photometric": "minisblack", "tile": (16, 16)}))
COLOURS = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
PALETTE = tiff((GREY, {"photometric": "palette", "colormap": COLOURS}))
DEFLATED = tiff((GREY, {"compression": "deflate", "rowsperstrip": 64}))
HEIGHT, WIDTH, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 257, 256, 259, 262, 266
STRIP_ROWS, STRIP_SIZES, PLANAR, COLORMAP = 278, 279, 284, 320


def with_changed_entry(data: bytes, tag: int, field: str, value: int) -> bytes:
    """The file with another `tag`, `type`, `count` or `value` in the entry of a tag."""
    (count,) = struct.unpack_from("<H", data, 8)
    [at] = [10 + 12 * n for n in range(count) if data[10 + 12 * n :][:2] == struct.pack("<H", tag)]
    offset, form = {"tag": (0, "H"), "type": (2, "H"), "count": (4, "I"), "value": (8, "I")}[field]
    copy = bytearray(data)
    struct.pack_into(f"<{form}", copy, at + offset, value)
    return bytes(copy)


def with_entry(data: bytes, tag: int, value: int) -> bytes:
    """The file with one more entry, a number of 16 bits, in a directory moved to its end."""
    start, (count,) = 8, struct.unpack_from("<H", data, 8)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    entries.append(struct.pack("<HHIHH", tag, 3, 1, value, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
    data += bytes(len(data) % 2)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


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
    found = error(with_changed_entry(data, tag, field, value))
    assert found.error_class == "DamagedImage"
    assert said in found.message


@pytest.mark.parametrize("compression", ["packbits", "lzw"])
def test_a_compressed_strip_of_no_bytes_is_damage(compression):
    page = {"photometric": "minisblack", "compression": compression}
    found = error(with_changed_entry(tiff((GREY, page)), STRIP_SIZES, "value", 0))
    assert found.error_class == "DamagedImage"
    assert "its strips must have 1 byte or more, got 0" in found.message


def test_pixels_beyond_the_file_are_cut_off():
    whole = tiff((GREY, {"photometric": "minisblack"}))
    assert error(whole[:-100]).error_class == "TruncatedImage"


@pytest.mark.parametrize("rows", [1, 63, 65, 640])
def test_deflated_data_of_another_number_of_pixels_are_damage(rows, capfd):
    data = with_changed_entry(
        with_changed_entry(DEFLATED, HEIGHT, "value", rows), STRIP_ROWS, "value", rows
    )
    found = error(data)
    assert found.error_class == "DamagedImage"
    assert f"must hold {rows * 80} bytes for its pixels, got " in found.message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("at", [-1, -100])
def test_damaged_deflated_data_are_damage_and_libtiff_prints_nothing(at, capfd):
    damaged = bytearray(DEFLATED)
    damaged[at] ^= 0xFF
    assert error(bytes(damaged)).error_class == "DamagedImage"
    assert capfd.readouterr().err == ""


def test_deflated_data_that_are_cut_off_are_cut_off_and_libtiff_prints_nothing(capfd):
    assert error(DEFLATED[:-100]).error_class == "TruncatedImage"
    assert capfd.readouterr().err == ""


def test_a_last_deflated_strip_may_be_padded_to_its_full_height():
    data = tiff((GREY, {"compression": "deflate", "rowsperstrip": 16}))
    assert is_near(with_changed_entry(data, HEIGHT, "value", 50), GREY[:50])


def test_deflated_data_in_reversed_bit_order_are_read():
    reversed_bits = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    with tifffile.TiffFile(io.BytesIO(DEFLATED)) as file:
        [[start], [size]] = file.pages[0].dataoffsets, file.pages[0].databytecounts
    flipped = bytearray(DEFLATED)
    flipped[start : start + size] = flipped[start : start + size].translate(reversed_bits)
    assert is_near(with_entry(bytes(flipped), FILL_ORDER, 2), GREY)


def test_the_same_files_without_a_change_are_read():
    assert is_near(DEFLATED, GREY)
    assert is_near(STRIPED, GREY)
    assert is_near(TILED, GREY)
    assert is_near(PLANES, RGB)
