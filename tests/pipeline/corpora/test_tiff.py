"""TIFF pixels are those that tifffile wrote, by the file's tags, or they are refused by name."""

import io

import numpy as np
import pytest
import tifffile
from drawn_pixels import GREY, RGB, RGBA, error, is_near, pixels, tag, tiff
from PIL import Image

FULL = {"u1": 255, "u2": 65535, "u4": 2**32 - 1, "f4": 1.0}
PACKED = [
    {},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": True},
    {"compression": "deflate", "predictor": True, "tile": (16, 32)},
    {"compression": "packbits", "rowsperstrip": 7},
    {"compression": "zstd", "rowsperstrip": 7},
    {"tile": (16, 32)},
]
LINEAR_MIN, LINEAR_MAX, LARGEST, ORIENTATION = 340, 341, 281, 274
TWELVE = GREY.astype(np.uint16) * 16 + 7


def full_range_samples(levels: np.ndarray, kind: str, order: str = "<") -> np.ndarray:
    """Levels of 8 bits over the whole range of a type."""
    whole = levels / 255 * FULL[kind]
    return (whole if kind[0] == "f" else whole.round()).astype(f"{order}{kind}")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("is_inverted", [False, True])
def test_grey_of_each_depth_has_its_brightness(order, kind, is_inverted):
    levels = 255 - GREY if is_inverted else GREY
    name = "miniswhite" if is_inverted else "minisblack"
    for packed in PACKED:
        data = tiff(
            (full_range_samples(levels, kind, order), {"photometric": name, **packed}),
            byteorder=order,
        )
        if order == ">" and kind in ("u4", "f4") and "compression" in packed:
            # Pillow swaps these once too often.
            assert error(data).error_class == "UnsupportedPixels"
        else:
            assert is_near(data, GREY), packed


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("is_separate", [False, True])
@pytest.mark.parametrize("is_big", [False, True])
def test_colours_have_their_pixels_in_planes_and_without(order, kind, is_separate, is_big):
    ink = (255 - RGB).astype(float) * (255 - RGBA[..., 3:]) / 255
    for levels, photometric, options, expected in [
        (RGB, "rgb", {}, RGB),
        (RGBA, "rgb", {"extrasamples": ["unassalpha"]}, RGB),
        (RGBA, "rgb", {"extrasamples": ["unspecified"]}, RGB),
        (RGBA, "separated", {}, ink),
    ]:
        drawn = full_range_samples(levels, kind, order)
        drawn = np.ascontiguousarray(drawn.transpose(2, 0, 1)) if is_separate else drawn
        for packed in PACKED:
            page = {
                "photometric": photometric,
                "planarconfig": "separate" if is_separate else "contig",
                **options,
                **packed,
            }
            data = tiff((drawn, page), byteorder=order, bigtiff=is_big)
            assert is_near(data, expected), page


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_within_tiff_is_what_tifffile_reads(subsampling):
    page = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": subsampling}
    data = tiff((RGB, page))
    assert is_near(data, tifffile.imread(io.BytesIO(data)), by=2)


def palette_image() -> tuple[Image.Image, np.ndarray]:
    image = Image.fromarray(RGB).quantize(64)
    colours = np.zeros((256, 3), np.uint16)
    colours[:64] = np.array(image.getpalette()[: 3 * 64]).reshape(-1, 3)
    return image, colours.T


@pytest.mark.parametrize("scale", [257, 1])
def test_a_palette_has_its_colours_in_16_bits_and_as_old_programs_write_it(scale):
    image, colours = palette_image()
    page = {"photometric": "palette", "colormap": np.ascontiguousarray(colours * scale)}
    assert is_near(tiff((np.asarray(image), page)), np.asarray(image.convert("RGB")), by=0)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_packed_grey_goes_from_black_to_white(bits):
    levels = GREY >> (8 - bits) if bits < 8 else TWELVE
    data = tiff((levels, {"photometric": "minisblack", "bitspersample": bits}))
    assert is_near(data, levels.astype(float) * 255 / (2**bits - 1))


@pytest.mark.parametrize(
    "said", [[tag(LARGEST, 4095)], [tag(LINEAR_MAX, 4095)], [tag(LARGEST, 4090)]]
)
def test_12_bits_in_16_are_scaled_by_the_tag_that_says_so(said):
    assert is_near(tiff((TWELVE, {"photometric": "minisblack", "extratags": said})), GREY)


def test_12_bits_in_16_in_planes_are_scaled_by_the_tag_that_says_so():
    page = {"photometric": "rgb", "planarconfig": "separate"}
    said = [tag(LARGEST, 4095, 4095, 4095)]
    data = tiff((np.stack([TWELVE] * 3), {**page, "extratags": said}))
    assert is_near(data, GREY)


@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
@pytest.mark.parametrize("said", [[], [tag(LARGEST, 100)]])
def test_12_bits_in_16_are_refused_where_nothing_says_so(photometric, said):
    drawn = np.stack([TWELVE] * 3, -1) if photometric == "rgb" else TWELVE
    found = error(tiff((drawn, {"photometric": photometric, "extratags": said})))
    assert found.error_class == "UnsupportedPixels"
    assert "16" in found.message


def test_a_dark_picture_stays_dark_where_the_file_says_that_it_is():
    for drawn, said in [(TWELVE, [tag(LARGEST, 65535)]), (TWELVE * 0, [])]:
        page = {"photometric": "minisblack", "extratags": said}
        assert is_near(tiff((drawn, page)), drawn >> 8)


@pytest.mark.parametrize("kind", ["f4", "i2", "i4"])
def test_samples_without_a_range_of_their_own_are_scaled_by_their_tags_or_refused(kind):
    drawn = (GREY.astype(float) * 100 - 5000).astype(kind)
    said = [
        tag(LINEAR_MIN, -5000, type="f" if kind == "f4" else "h"),
        tag(LINEAR_MAX, 20500, type="f" if kind == "f4" else "h"),
    ]
    page = {"photometric": "minisblack"}
    assert is_near(tiff((drawn, {**page, "extratags": said})), GREY)
    found = error(tiff((drawn, page)))
    assert found.error_class == "UnsupportedPixels"
    assert f"{drawn.min():.6g} to {drawn.max():.6g}" in found.message


def test_numbers_that_are_none_are_refused():
    drawn = np.where(GREY > 200, np.nan, GREY / 255).astype(np.float32)
    assert error(tiff((drawn, {}))).error_class == "UnsupportedPixels"


@pytest.mark.parametrize(
    ("drawn", "page", "what"),
    [
        (RGB / 255, {"photometric": "rgb"}, "TIFF, 3 x 64-bit float, RGB"),
        ((RGB / 255).astype("f4"), {"photometric": "rgb"}, "TIFF, 3 x 32-bit float, RGB"),
        ((GREY / 255).astype("f2"), {}, "TIFF, 1 x 16-bit float, grey"),
        (GREY.astype("i1"), {}, "TIFF, 1 x 8-bit signed, grey"),
        (GREY.astype("u8"), {}, "TIFF, 1 x 64-bit unsigned, grey"),
        (GREY.astype("c8"), {}, "TIFF, 1 x 64-bit complex, grey"),
        (
            np.dstack([RGBA] * 4)[..., :13],
            {"photometric": "minisblack", "planarconfig": "contig"},
            "TIFF, 13 x 8-bit unsigned, grey",
        ),
        (RGB, {"photometric": "cielab"}, "TIFF, 3 x 8-bit unsigned, Lab"),
        (RGB, {"photometric": "ycbcr"}, "TIFF, 3 x 8-bit unsigned, YCbCr"),
        (RGB, {"photometric": "rgb", "compression": "lerc"}, "RGB, LERC"),
        (RGB, {"photometric": "rgb", "compression": "webp"}, "RGB, WebP"),
        (GREY.astype("u2") * 257, {"photometric": "cfa"}, "a camera's colour filter"),
    ],
)
def test_other_kinds_are_refused_by_what_they_are(drawn, page, what):
    if page.get("photometric") == "cfa":
        page = {**page, "extratags": [tag(33421, 2, 2), tag(33422, 0, 1, 1, 2, type="B")]}
    found = error(tiff((drawn, page)))
    assert found.error_class == "UnsupportedPixels"
    assert what in found.message


def test_a_camera_s_raw_file_is_of_a_format_that_is_not_read():
    page = {"photometric": "cfa", "extratags": [tag(50706, 1, 4, 0, 0, type="B")]}
    found = error(tiff((GREY.astype("u2") * 257, page)))
    assert found.error_class == "UnsupportedFormat"
    assert "DNG" in found.message


UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.T, 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_deep_samples_and_planes_are_put_upright(orientation):
    said = {"extratags": [tag(ORIENTATION, orientation)]}
    deep = full_range_samples(GREY, "u2")
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    for drawn, page in [(deep, {}), (np.stack([deep] * 3), planes)]:
        assert is_near(tiff((drawn, {**page, **said})), UPRIGHT[orientation](GREY))


def test_a_cut_file_of_planes_is_an_error_wherever_it_is_cut():
    page = {"photometric": "rgb", "planarconfig": "separate"}
    data = tiff((np.stack([full_range_samples(GREY, "u2")] * 3), page))
    whole = pixels(data)
    for cut in range(1, len(data), 997):
        assert error(data[:-cut]).error_class in ("TruncatedImage", "DamagedImage", "NotAnImage")
    assert whole.shape == (64, 80, 3)
