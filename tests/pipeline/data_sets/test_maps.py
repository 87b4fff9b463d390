"""Maps of every kind of PNG and TIFF that holds whole numbers, as Pillow and by hand write them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from PIL import Image

from pipeline.datasets.maps import decode_id_map, decode_label_map
from pipeline.datasets.target import LabelError

VALUES = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def png_by_specification(rows: list[bytes], *, bits: int, colour_type: int, width: int) -> bytes:
    """Writes a PNG by its specification; Pillow cannot write all kinds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def draw_map(mode: str) -> bytes:
    grey = Image.fromarray(VALUES)
    return encode_image(grey.convert(mode))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_is_read_however_many_channels_it_is_stored_in(mode: str) -> None:
    np.testing.assert_array_equal(decode_label_map(draw_map(mode), source="a.png"), VALUES)


def test_grey_of_two_and_four_bits_and_of_one_is_not_stretched() -> None:
    two = png_by_specification(
        [bytes([0b00_01_10_00]), bytes([0b11_01_00_00])], bits=2, colour_type=0, width=3
    )
    np.testing.assert_array_equal(decode_label_map(two, source="a.png"), VALUES)
    four = png_by_specification(
        [bytes([0x01, 0x20]), bytes([0x31, 0x00])], bits=4, colour_type=0, width=3
    )
    np.testing.assert_array_equal(decode_label_map(four, source="a.png"), VALUES)
    one = encode_image(Image.fromarray(VALUES > 1))
    np.testing.assert_array_equal(decode_label_map(one, source="a.png"), VALUES > 1)


def test_what_would_lose_bits_or_labels_is_refused() -> None:
    deep = png_by_specification([bytes(6) * 3], bits=16, colour_type=2, width=3)
    with pytest.raises(LabelError, match="3 channels of 16 bits"):
        decode_label_map(deep, source="a.png")
    hidden = Image.fromarray(np.zeros((2, 3), np.uint8)).convert("LA")
    hidden.putalpha(Image.fromarray(VALUES * 80))
    with pytest.raises(LabelError, match="alpha channel differs"):
        decode_label_map(encode_image(hidden), source="a.png")


IDS = np.array([[0, 1000], [66_000, 1000]])
CHANNELS = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], -1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_segment_ids_are_spread_over_colours_whatever_stores_them(mode: str) -> None:
    image = Image.fromarray(CHANNELS)
    image = image.quantize(3) if mode == "P" else image.convert(mode)
    assert image.mode == mode
    # panopticapi takes the colours that Pillow converts to.
    expected = np.asarray(image.convert("RGB")).astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(expected, IDS)
    found = decode_id_map(encode_image(image), source="a.png", described={1000, 66_000})
    np.testing.assert_array_equal(found, IDS)


def test_the_alpha_of_segment_ids_does_not_count() -> None:
    image = Image.fromarray(CHANNELS).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(IDS > 0, 255, 0).astype(np.uint8)))
    found = decode_id_map(encode_image(image), source="a.png", described={1000, 66_000})
    np.testing.assert_array_equal(found, IDS)


def test_the_indices_of_a_palette_are_ids_where_those_are_described() -> None:
    image = Image.fromarray(CHANNELS).quantize(3)
    described = {*np.asarray(image).ravel().tolist()} - {0}
    found = decode_id_map(encode_image(image), source="a.png", described=described)
    np.testing.assert_array_equal(found, np.asarray(image))


def test_a_tiff_of_sixteen_bits_in_three_channels_is_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((2, 3, 3), 7, np.uint16), photometric="rgb")
    with pytest.raises(LabelError, match="16 bits"):
        decode_label_map(buffer.getvalue(), source="a.tif")
