"""JPEGs whose data end early are cut whatever they end with; other kinds are refused by name."""

import io

import imagecodecs
import numpy as np
import pytest
from as_files import encode_image
from drawn_pixels import GREY, MAX_PIXELS, RGB, error, is_near
from PIL import Image

from pipeline.corpora.decoding import decode

KINDS = {
    "colour": ("RGB", {}),
    "without subsampling": ("RGB", {"subsampling": 0}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
    "progressive": ("RGB", {"progressive": True}),
    "with restarts": ("RGB", {"restart_marker_blocks": 3}),
    "with restarts at lines": ("RGB", {"restart_marker_rows": 1}),
}
END = b"\xff\xd9"


def jpeg(levels: np.ndarray, mode: str = "RGB", **options) -> bytes:
    return encode_image(Image.fromarray(levels).convert(mode), "JPEG", quality=90, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_end_before_the_pixels_are_cut_in_spite_of_an_end_mark(kind):
    mode, options = KINDS[kind]
    large = RGB.repeat(3, 0).repeat(3, 1)
    data = jpeg(large, mode, **options)
    start = data.index(b"\xff\xda") + 40
    # Without its later scans a progressive file is only less sharp.
    stop = start + 500 if kind == "progressive" else len(data) - 400
    for end in range(start, stop, 1 + (stop - start) // 40):
        while data[end - 1] == 0xFF:  # half a marker
            end += 1
        assert error(data[:end] + END).error_class == "TruncatedImage", end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [127, 128])
def test_a_picture_that_is_grey_at_its_end_is_whole(kind, level):
    mode, options = KINDS[kind]
    levels = RGB.copy()
    levels[32:] = level
    data = jpeg(levels, mode, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert is_near(data, expected, by=0)
    assert is_near(data + b"what some programs append", expected, by=0)


def test_a_cut_is_seen_at_a_reduced_scale():
    data = jpeg(RGB.repeat(8, 0).repeat(8, 1))
    with pytest.raises(Exception, match="TruncatedImage"):
        decode(
            data[: len(data) // 2] + END,
            name="a", mode="fast", target_size=(64, 80), max_pixels=MAX_PIXELS,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (imagecodecs.jpeg_encode(GREY.astype(np.uint16) * 16, bitspersample=12), "1 x 12-bit"),
        (imagecodecs.jpegls_encode(RGB), "JPEG, 3 x 8-bit, JPEG-LS"),
        (imagecodecs.jpeg2k_encode(np.dstack([RGB, RGB[..., :2]])), "JPEG 2000, 5 x 8-bit"),
    ],
)
def test_kinds_that_are_not_read_are_refused_by_what_they_are(data, what):
    found = error(data)
    assert found.error_class == "UnsupportedPixels"
    assert what in found.message


def jpeg_2000(levels: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(
        np.ascontiguousarray(levels), bitspersample=bits, reversible=True, level=0
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 10, 12, 14, 16])
def test_grey_of_each_depth_in_jpeg_2000_goes_from_black_to_white(bits):
    most = (1 << bits) - 1
    levels = (GREY / 255 * most).round().astype(np.uint8 if bits <= 8 else np.uint16)
    assert is_near(jpeg_2000(levels, bits), levels * 255.0 / most)


@pytest.mark.parametrize("bits", [4, 8, 10, 12, 16])
def test_white_in_jpeg_2000_is_white_or_refused(bits):
    most = (1 << bits) - 1
    kind = np.uint8 if bits <= 8 else np.uint16
    with_white = (RGB / 255 * most).round().astype(kind)
    without = ((RGB // 2 + 64) / 255 * most).round().astype(kind)
    assert is_near(jpeg_2000(without, bits), without * 255.0 / most, by=1.5)
    if bits <= 8:
        assert is_near(jpeg_2000(with_white, bits), with_white * 255.0 / most)
    else:
        assert error(jpeg_2000(with_white, bits)).error_class == "UnsupportedPixels"
