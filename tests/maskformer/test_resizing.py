import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskformer.preprocessing.resizing import (
    padded_size,
    resize_image,
    resize_map,
    resized_size,
    size_form,
    to_rgb,
)

COCO = {"shortest_edge": 800, "longest_edge": 1333}
ADE = {"shortest_edge": 512, "longest_edge": 2048}


def noise_picture(height=30, width=41, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("image_size", "size", "detectron2", "truncated", "stretched"),
    [
        ((480, 640), COCO, (800, 1067), (800, 1066), (800, 1088)),
        ((300, 1200), COCO, (333, 1333), (333, 1333), (352, 1344)),
        ((640, 480), ADE, (683, 512), (682, 512), (704, 512)),
    ],
)
def test_published_examples_of_both_rules_come_out_as_published(
    image_size, size, detectron2, truncated, stretched
):
    assert resized_size(image_size, size=size, rule="detectron2") == detectron2
    assert resized_size(image_size, size=size, size_divisor=0) == truncated
    assert resized_size(image_size, size=size) == stretched


@settings(max_examples=300)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)).filter(lambda s: max(s) < 30 * min(s)),
    st.integers(8, 900),
    st.integers(8, 1500),
)
def test_sizes_are_those_of_transformers(image_size, shortest, longest):
    image_transforms = pytest.importorskip("transformers.image_transforms")
    expected = image_transforms.get_size_with_aspect_ratio(image_size, shortest, longest)
    if min(expected) < 1:
        return
    size = {"shortest_edge": shortest, "longest_edge": longest}
    assert resized_size(image_size, size=size, size_divisor=0) == expected


def test_an_image_whose_short_side_is_right_already_keeps_its_size():
    assert resized_size((100, 157), size={"shortest_edge": 100}, size_divisor=0) == (100, 157)


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
def test_a_side_never_becomes_less_than_one_pixel(rule):
    size = {"shortest_edge": 100, "longest_edge": 100}
    assert resized_size((1, 5000), size=size, size_divisor=0, rule=rule) == (1, 100)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"height": 50, "width": 60}, (50, 60)),
        ({"max_height": 50, "max_width": 60}, (45, 60)),
        ({"shortest_edge": 300}, (300, 400)),
        ({"shortest_edge": 300, "longest_edge": None}, (300, 400)),
        (300, (300, 400)),
        ((50, 60), (50, 60)),
        (None, (800, 1066)),
    ],
)
def test_every_form_of_size_is_understood(size, expected):
    assert resized_size((480, 640), size=size, size_divisor=0) == expected


def test_an_int_is_capped_at_1333_as_in_transformers_4_and_a_lone_shortest_edge_is_not():
    assert max(resized_size((100, 1000), size=512, size_divisor=0)) == 1333
    lone = {"shortest_edge": 512}
    assert resized_size((100, 1000), size=lone, size_divisor=0) == (512, 5120)
    assert size_form(512, max_size=2048) == {"shortest_edge": 512, "longest_edge": 2048}


@pytest.mark.parametrize(
    "size", [{"longest_edge": 3}, {"height": 3}, {}, {"shortest_edge": 0}, 0, (1, 2, 3)]
)
def test_a_size_of_no_known_form_is_an_error_that_shows_it(size):
    with pytest.raises(ValueError, match=r"size"):
        resized_size((10, 10), size=size)


def test_padding_goes_to_the_next_multiple_and_stays_there():
    assert padded_size((800, 1067)) == (800, 1088)
    assert padded_size((800, 1088)) == (800, 1088)
    assert padded_size((801, 1067), size_divisor=0) == (801, 1067)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb_as_pillow_makes_it(mode):
    image = noise_picture().convert("RGB")
    if mode == "LAB":
        pytest.importorskip("PIL.ImageCms")
        return
    image = image.convert(mode)
    assert (np.asarray(to_rgb(image)) == np.asarray(image.convert("RGB"))).all()


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(recwarn):
    image = noise_picture().quantize(16)
    opaque = np.asarray(image.convert("RGB"))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(range(0, 256, 16)))
    loaded = Image.open(file)
    assert isinstance(loaded.info["transparency"], bytes)
    assert (np.asarray(to_rgb(loaded)) == opaque).all()
    assert not recwarn.list


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    noise_picture().save(file, "PNG", exif=exif)
    image = Image.open(file)
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    upright = to_rgb(image)
    assert (np.asarray(upright) == expected).all()
    assert (np.asarray(to_rgb(upright)) == expected).all()


def test_damaged_exif_leaves_the_image_as_it_is_stored():
    image = noise_picture()
    image.info["exif"] = b"Exif\x00\x00 this is not TIFF"
    assert (np.asarray(to_rgb(image)) == np.asarray(noise_picture())).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_grayscale_of_16_bits_keeps_its_high_byte(mode):
    values = np.array([[0, 255, 256], [300, 40_000, 65_535]])
    if mode == "I;16B":
        image = Image.frombytes(mode, (3, 2), values.astype(">u2").tobytes())
    else:
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    rgb = np.asarray(to_rgb(image))
    assert (rgb == (values >> 8)[:, :, None]).all()


def test_a_16_bit_png_is_read_by_its_high_byte():
    values = np.random.default_rng(0).integers(0, 1 << 16, (8, 9), dtype=np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    assert (np.asarray(to_rgb(Image.open(file)))[:, :, 1] == values >> 8).all()


def test_arrays_and_pil_images_are_resized_alike():
    image = noise_picture()
    resized = resize_image(image, size=(17, 60))
    assert resized.shape == (17, 60, 3)
    assert (resized == resize_image(np.asarray(image), size=(17, 60))).all()
    resized[:] = 0


@settings(max_examples=100)
@given(*[st.integers(1, 60)] * 4)
def test_maps_take_the_nearest_id_as_pillow_does(height, width, new_height, new_width):
    ids = np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)
    expected = Image.fromarray(ids).resize((new_width, new_height), Image.Resampling.NEAREST)
    assert (resize_map(ids, size=(new_height, new_width)) == np.asarray(expected)).all()


def test_ids_above_16_bits_survive_resizing():
    ids = np.array([[70_000, 1], [2, 2**31 - 1]], np.int32)
    assert set(resize_map(ids, size=(5, 7)).ravel().tolist()) == set(ids.ravel().tolist())


def test_reading_processes_resize_and_encode_without_torch():
    code = (
        "import sys, maskformer.preprocessing.resizing, maskformer.image_processor as p;"
        "import maskformer.run_lengths.rle;"
        "from PIL import Image;"
        "p.MaskFormerImageProcessor(size=64).resize(Image.new('L', (30, 40)));"
        "p.MaskFormerImageProcessor(size=64)([Image.new('L', (30, 40))], return_tensors='np');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
