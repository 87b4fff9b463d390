"""Plain baseline JPEGs go to a device; all that it would misread stays with Pillow."""

import numpy as np
import pytest
from as_files import encode_image
from PIL import Image

from pipeline.corpora.device_jpeg import is_for_device


def random_jpeg(mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize((80, 60)).convert(mode)
    return encode_image(image, options.pop("format", "JPEG"), **options)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}])
def test_baseline_jpegs_are_for_a_device(subsampling, options):
    assert is_for_device(random_jpeg(subsampling=subsampling, **options))
    assert is_for_device(random_jpeg("L", **options))


def test_metadata_do_not_matter():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert is_for_device(random_jpeg(exif=exif, comment=b"a word", icc_profile=b"x" * 70000))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        random_jpeg(format="PNG"),
        random_jpeg("CMYK"),
        random_jpeg(progressive=True),
        random_jpeg(keep_rgb=True),
        random_jpeg(format="MPO", save_all=True, append_images=[Image.new("RGB", (80, 60))]),
        random_jpeg()[:-2],
        random_jpeg()[: len(random_jpeg()) // 2],
        random_jpeg() + b"more",
        random_jpeg()[:200] + b"\xff\xd9",
        random_jpeg()[:-60] + b"\xff\xc4\0\x04ab" + random_jpeg()[-60:],
    ],
    ids=[
        "empty", "no frame", "png", "cmyk", "progressive", "rgb", "several pictures", "no end",
        "truncated", "bytes behind its end", "cut in its header", "a table in its scan",
    ],
)  # fmt: skip
def test_other_and_damaged_files_are_for_pillow(data):
    assert not is_for_device(data)


def test_an_inverted_file_of_adobes_is_for_pillow():
    """An Adobe marker that says RGB, over samples whose names say YCbCr."""
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    for transform, expected in ((1, True), (0, False)):
        data = random_jpeg()
        assert is_for_device(data[:2] + adobe + bytes([transform]) + data[2:]) is expected
