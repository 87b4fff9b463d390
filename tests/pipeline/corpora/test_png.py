"""What is said about a PNG, however large or damaged, never costs its picture."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from drawn_pixels import GREY, RGB, error, is_near
from PIL import ExifTags, Image, PngImagePlugin

from pipeline.corpora.png import SIGNATURE, chunk

MEGABYTE = 1 << 20
DATA = imagecodecs.png_encode(RGB)
BLANK = bytes(5 * MEGABYTE)
XMP = b"XML:com.adobe.xmp"


def exif(orientation: int) -> bytes:
    said = Image.Exif()
    said[ExifTags.Base.Orientation] = orientation
    return said.tobytes()[6:]


def with_chunks(*chunks: bytes, data: bytes = DATA, before: bytes = b"IDAT") -> bytes:
    at = data.index(before) - 4
    return data[:at] + b"".join(chunks) + data[at:]


def miscounted(kind: bytes, content: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    whole = chunk(kind, content)
    return whole[:-1] + bytes([whole[-1] ^ 1])


PACKED = zlib.compress(BLANK)
TROUBLE = {
    "a compressed text": chunk(b"zTXt", b"prompt\0\0" + PACKED),
    "an international text": chunk(b"iTXt", b"prompt\0\1\0\0\0" + PACKED),
    "XMP": chunk(b"iTXt", XMP + b"\0\1\0\0\0" + PACKED),
    "a colour profile": chunk(b"iCCP", b"profile\0\0" + PACKED),
    "a wrong checksum": miscounted(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    "a wrong checksum in a text": miscounted(b"tEXt", b"prompt\0a cat"),
    "a wrong checksum in EXIF": miscounted(b"eXIf", exif(1)),
    "data that are too short": chunk(b"pHYs", b"\0\1"),
    "a transparency that is too short": chunk(b"tRNS", b"\0"),
    "an animation that is too short": chunk(b"acTL", b"\0\1") + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("kind", TROUBLE)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_what_is_said_beside_the_picture_does_not_cost_it(kind, before):
    assert is_near(with_chunks(TROUBLE[kind], before=before), RGB, by=0)


def test_many_texts_do_not_cost_the_picture():
    texts = [chunk(b"tEXt", b"prompt\0" + bytes(MEGABYTE))] * 66
    assert is_near(with_chunks(*texts), RGB, by=0)


@pytest.mark.parametrize(
    "turning",
    [
        chunk(b"eXIf", exif(6)),
        chunk(b"iTXt", XMP + b'\0\0\0\0\0<x tiff:Orientation="6"/>'),
        chunk(b"iTXt", XMP + b"\0\1\0\0\0" + zlib.compress(b'<x tiff:Orientation="6"/>' + BLANK)),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n 8\n" + (b"Exif\0\0" + exif(6)).hex().encode()),
        ),
    ],
)
def test_how_it_is_turned_is_kept(turning):
    data = with_chunks(turning, TROUBLE["a colour profile"])
    assert is_near(data, np.rot90(RGB, -1), by=0)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_wrong_checksum_of_the_picture_is_damage(kind):
    data = bytearray(with_chunks(TROUBLE["a wrong checksum"]))
    at = data.index(kind)
    size = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + size] ^= 1
    assert error(bytes(data)).error_class == "DamagedImage"


def test_damaged_pixels_behind_a_large_text_are_damage():
    data = bytearray(with_chunks(TROUBLE["XMP"]))
    data[data.index(b"IDAT") + 2000] ^= 1
    assert error(bytes(data)).error_class == "DamagedImage"


def test_a_cut_file_with_a_large_text_is_cut():
    data = with_chunks(TROUBLE["XMP"])
    for cut in range(20, len(data) - data.index(b"IDAT"), 997):
        assert error(data[:-cut]).error_class == "TruncatedImage"


def test_the_bounds_of_pillow_stay():
    bounds = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert is_near(with_chunks(*TROUBLE.values()), RGB, by=0)
    assert bounds == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert bounds[0] < len(BLANK)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_have_their_brightness_and_too_few_of_them_are_refused(channels):
    deep = GREY.astype(np.uint16)
    full = imagecodecs.png_encode(np.stack([deep * 257] * channels, -1).squeeze())
    assert is_near(full, GREY, by=0)
    low = imagecodecs.png_encode(np.stack([deep * 16] * min(channels, 3), -1).squeeze())
    found = error(low)
    assert found.error_class == "UnsupportedPixels"
    assert "16 bits use 12" in found.message


@pytest.mark.parametrize("levels", [GREY, RGB])
def test_a_transparent_colour_stays_what_it_is(levels):
    deep = imagecodecs.png_encode(levels.astype(np.uint16) * 257)
    transparent = chunk(b"tRNS", (levels[0, 0].astype(">u2") * 257).tobytes())
    assert is_near(with_chunks(transparent, data=deep), levels, by=0)


def test_the_default_picture_of_an_animation_is_the_first():
    buffer = io.BytesIO()
    other = Image.fromarray(255 - RGB)
    Image.fromarray(RGB).save(
        buffer, "PNG", save_all=True, append_images=[other], default_image=True
    )
    assert is_near(buffer.getvalue(), RGB, by=0)
    assert is_near(with_chunks(TROUBLE["XMP"], data=buffer.getvalue()), RGB, by=0)
    assert buffer.getvalue().startswith(SIGNATURE)


@pytest.mark.parametrize("is_interlaced", [0, 1])
def test_rows_that_the_data_lack_are_no_black_rows(is_interlaced):
    height, width = GREY.shape
    rows = bytes((1 + width) * height // 2)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, is_interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)
    assert error(data).error_class == "TruncatedImage"


def test_black_rows_at_the_end_are_read():
    dark = np.vstack([RGB, np.zeros_like(RGB)])
    assert is_near(imagecodecs.png_encode(dark), dark, by=0)


def test_a_palette_that_is_missing_and_two_headers_that_differ_are_damage():
    height, width = GREY.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in GREY))
    data = SIGNATURE + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert "its palette is missing" in error(data).message
    lower = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height // 2, 8, 2, 0, 0, 0))
    assert "no other that differs" in error(with_chunks(lower)).message
