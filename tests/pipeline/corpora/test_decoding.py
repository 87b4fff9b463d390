"""Decoding gives upright RGB pixels, or an `ImageError` that says what is wrong."""

import contextlib
import pickle
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from as_files import encode_image
from drawn_pixels import tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile

from pipeline.corpora.decoding import Decoded, ImageError, decode, guess_content, image_size

# pytest sets its own filters of warnings in place of those of the module under test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
MAX_PIXELS = 10**7


def block_picture(height: int = 36, width: int = 48) -> Image.Image:
    """Blocks of random colours."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)[:height, :width])


def encoded_as(image: Image.Image, *, format: str, **options) -> bytes:
    return encode_image(image, format, **options)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def tiff_pages(image: Image.Image) -> dict:
    return {"save_all": True, "append_images": [image.rotate(180)]}


def decode_picture(data: bytes, **options) -> Decoded:
    return decode(data, name="corpus/a.jpg", **{"max_pixels": MAX_PIXELS, **options})


def decoded_pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_picture(data).image)


def decoding_error(data: bytes, **options) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_picture(data, **options)
    assert "corpus/a.jpg" in caught.value.message
    return caught.value


IMAGE = block_picture()
SIXTEEN_BITS = Image.fromarray(np.asarray(IMAGE)[..., 0].astype(np.uint16) * 257)
FILES: dict[str, bytes] = {
    "JPEG": encoded_as(IMAGE, format="JPEG"),
    "progressive JPEG": encoded_as(IMAGE, format="JPEG", progressive=True),
    "CMYK JPEG": encoded_as(IMAGE.convert("CMYK"), format="JPEG"),
    "MPO": encoded_as(IMAGE, format="MPO", **tiff_pages(IMAGE)),
    "PNG": encoded_as(IMAGE, format="PNG"),
    "palette PNG": encoded_as(IMAGE.convert("P"), format="PNG"),
    "16-bit PNG": encoded_as(SIXTEEN_BITS, format="PNG"),
    "animated PNG": encoded_as(IMAGE, format="PNG", **tiff_pages(IMAGE)),
    "GIF": encoded_as(IMAGE.convert("P"), format="GIF"),
    "animated GIF": encoded_as(IMAGE.convert("P"), format="GIF", **tiff_pages(IMAGE.convert("P"))),
    "WebP": encoded_as(IMAGE, format="WEBP", lossless=True),
    "animated WebP": encoded_as(IMAGE, format="WEBP", lossless=True, **tiff_pages(IMAGE)),
    "BMP": encoded_as(IMAGE, format="BMP"),
    "TIFF": encoded_as(IMAGE, format="TIFF"),
    "LZW TIFF": encoded_as(IMAGE, format="TIFF", compression="tiff_lzw"),
    "TIFF of two pages": encoded_as(IMAGE, format="TIFF", **tiff_pages(IMAGE)),
    "TIFF with a thumbnail": tiff(
        (np.asarray(IMAGE)[::4, ::4], {"subfiletype": 1, "subifds": 1}),
        (np.asarray(IMAGE), {"compression": "deflate"}),
    ),
    "16-bit TIFF in planes": tiff(
        (np.asarray(IMAGE).transpose(2, 0, 1).astype(np.uint16) * 257, {"photometric": "rgb"})
    ),
    "float TIFF": tiff((np.asarray(IMAGE)[..., 0].astype(np.float32) / 255, {})),
    "PPM": encoded_as(IMAGE, format="PPM"),
    "AVIF": encoded_as(IMAGE, format="AVIF"),
    "JPEG 2000": encoded_as(IMAGE, format="JPEG2000"),
}
LOSSLESS = [
    "PNG", "animated PNG", "WebP", "animated WebP", "BMP", "TIFF", "LZW TIFF",
    "TIFF of two pages", "TIFF with a thumbnail", "16-bit TIFF in planes", "PPM", "JPEG 2000",
]  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_an_image_of_each_format_is_its_first_one_in_rgb(kind):
    decoded = decode_picture(FILES[kind])
    assert decoded.image.mode == "RGB"
    assert (
        (decoded.height, decoded.width) == (decoded.image.height, decoded.image.width) == (36, 48)
    )
    expected = np.asarray(IMAGE).astype(int)
    if kind in ("16-bit PNG", "float TIFF"):
        expected = expected[..., :1].repeat(3, 2)
    difference = np.abs(np.asarray(decoded.image).astype(int) - expected)
    assert difference.max() == 0 if kind in LOSSLESS else difference.mean() < 40


@pytest.mark.parametrize("kind", FILES)
def test_an_image_cut_anywhere_is_an_error_and_never_half_a_picture(kind):
    whole = decoded_pixels(FILES[kind])
    found = set()
    for cut in range(0, len(FILES[kind]), 1 + len(FILES[kind]) // 600):
        try:
            assert np.array_equal(decoded_pixels(FILES[kind][:cut]), whole)
        except ImageError as error:
            found.add(error.error_class)
    assert {"EmptyFile", "TruncatedImage"} <= found
    assert found <= {"EmptyFile", "NotAnImage", "TruncatedImage", "DamagedImage"}


@settings(max_examples=200)
@given(kind=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**20), cut=st.booleans())
def test_random_damage_is_an_image_error_or_an_image(kind, seed, cut):
    chance = random.Random(seed)
    damaged = bytearray(FILES[kind])
    for _ in range(chance.randint(1, 8)):
        # Most of what can go wrong goes wrong in the headers.
        position = chance.randrange(chance.choice([40, 200, len(damaged)]))
        damaged[min(position, len(damaged) - 1)] = chance.choice(
            [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
        )
    if cut:
        del damaged[chance.randrange(len(damaged)) :]
    with contextlib.suppress(ImageError):
        assert decode_picture(bytes(damaged)).image.mode == "RGB"


@settings(max_examples=100)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM"]),
)
def test_arbitrary_bytes_are_an_image_error(data, start):
    decoding_error(start + data)


def test_an_empty_file_has_a_class_of_its_own():
    assert decoding_error(b"").error_class == "EmptyFile"


@pytest.mark.parametrize(
    ("data", "error_class", "hint"),
    [
        (b"<!DOCTYPE html><html>", "NotAnImage", "HTML"),
        (b"\n<html><body>404</body>", "NotAnImage", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "NotAnImage", "XML"),
        (b'{"error": "no such key"}', "NotAnImage", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "NotAnImage", "Git LFS"),
        (b"%PDF-1.7\n", "NotAnImage", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "NotAnImage", "PostScript"),
        (b"PK\x03\x04" + bytes(30), "NotAnImage", "zip"),
        (bytes(1000), "NotAnImage", "zeros"),
        (b"hello, world", "NotAnImage", "'hello, world'"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "UnsupportedFormat", "SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "UnsupportedFormat", "HEIC"),
        (b"8BPS" + bytes(30), "UnsupportedFormat", "Photoshop"),
        (b"P7\nWIDTH 4\n", "UnsupportedFormat", "PAM"),
        (b"II\xbc\x01" + bytes(30), "UnsupportedFormat", "JPEG XR"),
    ],
)
def test_what_is_no_image_is_told_by_what_it_looks_like(data, error_class, hint):
    found = decoding_error(data)
    assert found.error_class == error_class
    assert hint in found.message
    assert hint in guess_content(data)


def test_formats_that_run_programs_or_draw_are_not_tried():
    assert decoding_error(encoded_as(IMAGE, format="EPS")).error_class == "NotAnImage"
    assert decoding_error(encoded_as(IMAGE, format="PDF")).error_class == "NotAnImage"


def png_header(height: int, width: int) -> bytes:
    """A PNG that claims a size and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(3000, 4000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_found_out_by_its_header(size):
    found = decoding_error(png_header(*size))
    assert found.error_class == "DecompressionBomb"
    assert str(MAX_PIXELS) in found.message
    assert "max_image_pixels" in found.message
    assert str(size[0] * size[1]) in found.message


def test_the_bound_on_pixels_is_exact_and_goes_beyond_that_of_pillow(monkeypatch):
    data = FILES["PNG"]
    assert decode_picture(data, max_pixels=36 * 48).height == 36
    assert decoding_error(data, max_pixels=36 * 48 - 1).error_class == "DecompressionBomb"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decoding_error(data, max_pixels=200).error_class == "DecompressionBomb"
    assert decode_picture(data, max_pixels=36 * 48).height == 36


UPRIGHT: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.rotate(180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.rotate(-90, expand=True),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.rotate(90, expand=True),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_put_upright(orientation, format):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    decoded = decode_picture(
        encoded_as(IMAGE, format=format, exif=turned(orientation), **options.get(format, {}))
    )
    expected = np.asarray(UPRIGHT[orientation](IMAGE)).astype(int)
    assert (decoded.height, decoded.width) == expected.shape[:2]
    assert np.abs(np.asarray(decoded.image) - expected).max() <= (8 if format == "JPEG" else 0)


def test_damaged_metadata_do_not_cost_an_image():
    data = encoded_as(IMAGE, format="JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert np.array_equal(decoded_pixels(data), decoded_pixels(FILES["JPEG"]))
    assert decode_picture(data, mode="fast", target_size=(9, 12)).height == 36


def test_grayscale_of_16_bits_keeps_its_range():
    values = np.asarray(SIXTEEN_BITS) >> 8
    assert np.array_equal(decoded_pixels(FILES["16-bit PNG"])[..., 0], values)


@pytest.mark.parametrize(
    ("kind", "most", "channels"),
    [("P5", 1023, 1), ("P6", 1023, 3), ("P5", 65535, 1), ("P5", 15, 1)],
)
def test_a_pnm_is_scaled_by_its_largest_value(kind, most, channels):
    levels = np.asarray(IMAGE)[..., :channels]
    values = (levels / 255 * most).round().astype(">u2" if most > 255 else "u1")
    data = f"{kind} 48 36 {most}\n".encode() + values.tobytes()
    assert np.abs(decoded_pixels(data) - values.astype(float) * 255 / most).max() <= 1


def test_a_float_map_is_grey_from_0_to_1_or_refused():
    levels = np.asarray(IMAGE)[..., 0]
    values = (levels[::-1] / 255).astype("<f4")
    assert (decoded_pixels(b"Pf\n48 36\n-1.0\n" + values.tobytes())[..., 0] == levels).all()
    for data in (
        b"Pf\n48 36\n-1.0\n" + (2 * values).tobytes(),
        b"PF\n48 36\n-1.0\n" + values.repeat(3).tobytes(),
    ):
        assert decoding_error(data).error_class == "UnsupportedPixels"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("target", "scale"),
    [
        ((300, 400), 1),
        ((201, 200), 1),
        ((200, 267), 2),
        ((99, 133), 4),
        ((51, 10), 4),
        ((50, 60), 8),
        ((1, 1), 8),
    ],
)
def test_fast_reduces_a_jpeg_but_never_below_the_target(orientation, target, scale):
    data = encoded_as(block_picture(401, 535), format="JPEG", exif=turned(orientation))
    wanted = target if orientation == 1 else target[::-1]
    decoded = decode_picture(data, mode="fast", target_size=wanted)
    full = (401, 535) if orientation == 1 else (535, 401)
    assert (decoded.height, decoded.width) == full
    assert decoded.image.size[::-1] == tuple(-(-side // scale) for side in full)
    assert all(side >= least for side, least in zip(decoded.image.size[::-1], wanted, strict=True))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_by_the_header_is_that_of_the_decoded_image(orientation, format):
    data = encoded_as(block_picture(36, 48), format=format, exif=turned(orientation))
    decoded = decode_picture(data)
    size = image_size(data, name="a", max_pixels=MAX_PIXELS)
    assert size == (decoded.height, decoded.width)


@pytest.mark.parametrize(
    ("data", "error_class"),
    [(b"", "EmptyFile"), (b"<html>", "NotAnImage"), (b"\x89PNG\r\n\x1a\n", "TruncatedImage")],
)
def test_there_is_no_size_without_a_header(data, error_class):
    with pytest.raises(ImageError) as caught:
        image_size(data, name="a", max_pixels=MAX_PIXELS)
    assert caught.value.error_class == error_class


def test_fast_asks_for_the_target_with_the_size_of_the_upright_image():
    asked = []

    def half(size: tuple[int, int]) -> tuple[int, int]:
        asked.append(size)
        return size[0] // 2, size[1] // 2

    data = encoded_as(block_picture(80, 120), format="JPEG", exif=turned(8))
    decoded = decode_picture(data, mode="fast", target_size=half)
    assert asked == [(120, 80)]
    assert decoded.image.size == (40, 60)


@pytest.mark.parametrize("kind", [kind for kind in FILES if "JPEG" not in kind and kind != "MPO"])
def test_fast_is_exact_for_all_other_formats(kind):
    fast = decode_picture(FILES[kind], mode="fast", target_size=(1, 1))
    assert np.array_equal(np.asarray(fast.image), decoded_pixels(FILES[kind]))


def test_fast_is_near_exact():
    """Averages of the full image, up to what the colour planes lose."""
    smooth = block_picture(12, 16).resize((512, 384), Image.Resampling.BICUBIC)
    data = encoded_as(smooth, format="JPEG", quality=95)
    fast = decode_picture(data, mode="fast", target_size=(96, 128)).image
    exact = decode_picture(data).image.resize((128, 96), Image.Resampling.BOX)
    assert fast.size == (128, 96)
    assert np.abs(np.asarray(fast).astype(int) - np.asarray(exact)).mean() < 2


def test_fast_without_a_target_is_refused():
    with pytest.raises(ValueError, match="target_size"):
        decode_picture(FILES["JPEG"], mode="fast")


def test_decoding_changes_no_global_of_pillow_that_hides_damage():
    decode_picture(FILES["JPEG"])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_an_error_survives_the_way_between_processes():
    before = decoding_error(b"")
    after = pickle.loads(pickle.dumps(before))
    assert (after.error_class, after.message) == (before.error_class, before.message)


@pytest.mark.parametrize("fault", [MemoryError(), struct.error("x"), SyntaxError("x"), KeyError(1)])
def test_whatever_a_decoder_raises_is_an_image_error(monkeypatch, fault):
    def fail(*_: object, **__: object) -> Callable[[], None]:
        raise fault

    monkeypatch.setattr(Image, "open", fail)
    expected = "OutOfMemory" if isinstance(fault, MemoryError) else "DamagedImage"
    assert decoding_error(FILES["JPEG"]).error_class == expected


PROGRAM = """
import pathlib, sys, warnings
warnings.simplefilter("error")
from pipeline.corpora.decoding import decode
decode(pathlib.Path(sys.argv[1]).read_bytes(), name="a", max_pixels=10**9)
assert "torch" not in sys.modules and "ray" not in sys.modules
"""


def test_decoding_is_quiet_and_starts_without_torch(tmp_path):
    path = tmp_path / "a.png"
    palette = IMAGE.convert("P")
    palette.info["transparency"] = bytes(range(256))
    path.write_bytes(encoded_as(palette, format="PNG", transparency=bytes(range(256))))
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
