import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskformer.image_processor import MaskFormerFeatureExtractor, MaskFormerImageProcessor

SIZE = {"shortest_edge": 60, "longest_edge": 90}


def draw_picture(height=50, width=73, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def draw_id_map(height=50, width=73, highest=5, seed=0):
    small = np.random.default_rng(seed).integers(0, highest + 1, (height // 5 + 1, width // 5 + 1))
    return np.kron(small, np.ones((5, 5), np.int64))[:height, :width]


def assert_close(ours, theirs):
    torch.testing.assert_close(
        torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-5, rtol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1", "LA", "YCbCr"])
@pytest.mark.parametrize("shape", [(50, 73), (73, 50), (20, 140), (64, 64), (60, 77)])
def test_pixel_values_are_those_of_transformers_for_every_mode(transformers_processor, mode, shape):
    image = draw_picture(*shape).convert(mode)
    ours = MaskFormerImageProcessor(size=SIZE)(image, return_tensors="pt")
    theirs = transformers_processor(size=SIZE)(image.convert("RGB"), return_tensors="pt")
    assert_close(ours.pixel_values, theirs.pixel_values)
    assert (ours.pixel_mask == theirs.pixel_mask).all()
    assert ours.pixel_mask.dtype == theirs.pixel_mask.dtype == torch.int64


def test_pixel_values_of_an_image_that_exif_turns_are_those_of_the_upright_one(
    transformers_processor,
):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    draw_picture().save(file, "JPEG", exif=exif)
    image = Image.open(file)
    ours = MaskFormerImageProcessor(size=SIZE)(image, return_tensors="pt")
    upright = ImageOps.exif_transpose(image)
    theirs = transformers_processor(size=SIZE)(upright, return_tensors="pt")
    assert_close(ours.pixel_values, theirs.pixel_values)


@pytest.mark.parametrize(
    "settings_",
    [
        {"size": {"height": 40, "width": 60}},
        {"size": {"max_height": 40, "max_width": 60}},
        {"size_divisor": 0},
        {"size_divisor": 8, "resample": 0},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False, "rescale_factor": 1 / 127},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.7},
        {"pad_size": {"height": 200, "width": 300}},
    ],
)
def test_every_setting_works_as_in_transformers_in_the_constructor_and_in_the_call(
    transformers_processor, settings_
):
    images = [np.asarray(draw_picture()), np.asarray(draw_picture(30, 90))]
    if "image_std" in settings_:
        theirs_settings = {**settings_, "image_std": [0.7] * 3}
    else:
        theirs_settings = settings_
    theirs = transformers_processor(**{"size": SIZE, **theirs_settings})(
        images, return_tensors="np"
    )
    made_so = MaskFormerImageProcessor(**{"size": SIZE, **settings_})
    called_so = MaskFormerImageProcessor(size=SIZE)
    for ours in (
        made_so(images, return_tensors="np"),
        called_so.preprocess(images, return_tensors="np", **settings_),
    ):
        assert_close(ours.pixel_values, theirs.pixel_values)
        assert (ours.pixel_mask == theirs.pixel_mask).all()


@pytest.mark.parametrize("form", ["chw", "tensor", "float", "pil", "batch", "nested"])
def test_images_of_every_kind_give_the_same_pixel_values(form):
    processor = MaskFormerImageProcessor(size=SIZE)
    image = np.asarray(draw_picture())
    images = {
        "chw": [np.moveaxis(image, -1, 0)],
        "tensor": torch.from_numpy(np.moveaxis(image, -1, 0).copy()),
        "float": [image.astype(np.float32)],
        "pil": draw_picture(),
        "batch": image[None],
        "nested": [[draw_picture()]],
    }[form]
    assert_close(
        processor(images, return_tensors="np").pixel_values,
        processor(image, return_tensors="np").pixel_values,
    )


def test_floats_in_the_unit_range_are_resized_as_transformers_does(transformers_processor):
    image = np.asarray(draw_picture()).astype(np.float32) / 255
    ours = MaskFormerImageProcessor(size=SIZE, do_rescale=False)(image, return_tensors="np")
    theirs = transformers_processor(size=SIZE, do_rescale=False)(image, return_tensors="np")
    assert_close(ours.pixel_values, theirs.pixel_values)


def test_the_channel_order_is_told_apart_and_can_be_given():
    processor = MaskFormerImageProcessor(do_resize=False)
    ambiguous = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    first = processor(ambiguous, return_tensors="np").pixel_values
    last = processor(ambiguous, return_tensors="np", input_data_format="channels_last").pixel_values
    assert (first.shape, last.shape) == ((1, 3, 5, 3), (1, 3, 3, 5))
    turned = processor(ambiguous, return_tensors="np", data_format="channels_last").pixel_values
    assert (np.moveaxis(turned, -1, 1) == first).all()


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_batch_jobs_way_gives_the_pixel_values_of_the_processor(rule, dtype):
    processor = MaskFormerImageProcessor(size=SIZE, resize_rule=rule)
    pixels = processor.resize(draw_picture())
    assert pixels.shape[:2] == processor.resized_size((50, 73))
    values = processor.normalize(torch.from_numpy(pixels)[None], dtype=dtype)
    expected = processor(draw_picture(), return_tensors="pt").pixel_values
    assert values.shape[2:] == processor.padded_size(pixels.shape[:2])
    assert values.dtype == dtype
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert_close(values.float(), expected.to(dtype).float())


def test_the_detectron2_rule_pads_with_zeros_after_normalising_and_marks_them():
    processor = MaskFormerImageProcessor(size=SIZE, resize_rule="detectron2")
    batch = processor(draw_picture(), return_tensors="pt")
    height, width = processor.resized_size((50, 73))
    assert (height, width) == (60, 88)
    assert batch.pixel_values.shape[2:] == (64, 96)
    assert batch.pixel_mask.sum() == height * width
    assert (batch.pixel_values[0, :, height:] == 0).all()
    assert (batch.pixel_values[0, :, :, width:] == 0).all()
    assert (batch.pixel_values[0, :, :height, :width] != 0).any(0).all()


def test_images_of_several_sizes_in_one_array_are_padded_each_for_itself():
    processor = MaskFormerImageProcessor(size=SIZE, resize_rule="detectron2")
    pixels = [processor.resize(draw_picture()), processor.resize(draw_picture(50, 70))]
    together = torch.full((2, 64, 96, 3), 77, dtype=torch.uint8)
    for place, image in zip(together, pixels, strict=True):
        place[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    values = processor.normalize(together, image_sizes=[p.shape[:2] for p in pixels])
    for value, image in zip(values, pixels, strict=True):
        alone = processor.normalize(torch.from_numpy(image)[None])[0]
        assert (value[:, : alone.shape[1], : alone.shape[2]] == alone).all()


@settings(max_examples=30)
@given(st.integers(0, 100), st.sampled_from([None, 0, 3, 255]))
def test_label_maps_become_the_masks_of_transformers(seed, ignore_index):
    pytest.importorskip("transformers")
    from transformers.models.maskformer.image_processing_pil_maskformer import (
        MaskFormerImageProcessorPil,
    )

    images, maps = (
        [draw_picture(), draw_picture()],
        [draw_id_map(seed=seed), draw_id_map(seed=seed + 1, highest=2)],
    )
    given_ = {"size": SIZE, "ignore_index": ignore_index}
    ours = MaskFormerImageProcessor(**given_)(images, maps, return_tensors="pt")
    theirs = MaskFormerImageProcessorPil(**given_)(images, maps, return_tensors="pt")
    for name in ("mask_labels", "class_labels"):
        for one, other in zip(ours[name], theirs[name], strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_differs_from_transformers_padding_of_masks_is_0_and_not_ignore_index():
    processor = MaskFormerImageProcessor(do_resize=False, ignore_index=255)
    images = [draw_picture(40, 40), draw_picture(60, 70)]
    batch = processor(images, [draw_id_map(40, 40), draw_id_map(60, 70)], return_tensors="pt")
    assert [masks.shape[1:] for masks in batch.mask_labels] == [(60, 70)] * 2
    assert batch.mask_labels[0][:, 40:].sum() == batch.mask_labels[0][:, :, 40:].sum() == 0
    assert set(torch.cat(batch.mask_labels).unique().tolist()) == {0.0, 1.0}


def test_differs_from_transformers_reducing_labels_leaves_ignored_pixels_ignored():
    processor = MaskFormerImageProcessor(do_reduce_labels=True, ignore_index=255)
    ids = np.array([[0, 1], [150, 255]], np.uint8)
    masks, labels = processor.convert_segmentation_map_to_binary_masks(ids)
    assert labels.tolist() == [0, 149]
    assert masks.tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]


def test_differs_from_transformers_an_ignore_index_beyond_the_maps_type_is_no_problem():
    processor = MaskFormerImageProcessor(do_reduce_labels=True, ignore_index=65535)
    masks, labels = processor.convert_segmentation_map_to_binary_masks(
        np.array([[0, 1, 255]], np.uint8)
    )
    assert labels.tolist() == [0, 254]
    assert masks[:, 0].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_differs_from_transformers_a_map_of_another_size_than_its_image_is_an_error():
    with pytest.raises(ValueError, match=r"got \(73, 50\) for an image of \(50, 73\) at position"):
        MaskFormerImageProcessor()([draw_picture()], [draw_id_map(73, 50)])


def test_ids_above_16_bits_and_maps_without_labels_are_kept_apart():
    processor = MaskFormerImageProcessor(do_resize=False, ignore_index=0)
    maps = [np.array([[70_000, 70_001]]), np.zeros((1, 2), np.int64)]
    batch = processor([Image.new("RGB", (2, 1))] * 2, maps, return_tensors="pt")
    assert [labels.tolist() for labels in batch.class_labels] == [[70_000, 70_001], []]
    assert batch.mask_labels[1].shape == (0, 1, 2)


def test_instance_ids_are_mapped_by_one_dict_or_by_one_for_each_image():
    processor = MaskFormerImageProcessor(do_resize=False)
    images, maps = [Image.new("RGB", (2, 1))] * 2, [np.array([[1, 2]]), np.array([[2, 1]])]
    one = processor(images, maps, {1: 7, 2: 7})
    assert [labels.tolist() for labels in one.class_labels] == [[7, 7], [7, 7]]
    each = processor(images, maps, [{1: 7, 2: 8}, {1: 9, 2: 4}])
    assert [labels.tolist() for labels in each.class_labels] == [[7, 8], [9, 4]]
    reduced = processor.preprocess(images, maps, {2: 30}, do_reduce_labels=True, ignore_index=0)
    assert reduced.class_labels[0].tolist() == [29]


def test_an_id_that_the_mapping_lacks_is_an_error_that_names_it():
    with pytest.raises(KeyError, match=r"lacks \[2\]"):
        MaskFormerImageProcessor().convert_segmentation_map_to_binary_masks(
            np.array([[1, 2]]), {1: 0}
        )


@pytest.mark.parametrize("call", ["preprocess", "encode_inputs"])
def test_as_many_maps_as_images_are_needed(call):
    with pytest.raises(ValueError, match="must have the same length"):
        getattr(MaskFormerImageProcessor(), call)([np.zeros((3, 4, 4), np.uint8)], [])


def test_reducing_labels_needs_an_ignore_index():
    with pytest.raises(ValueError, match="ignore_index"):
        MaskFormerImageProcessor(do_reduce_labels=True)([draw_picture()], [draw_id_map()])


def test_encode_inputs_gives_the_example_of_its_documentation():
    encoded = MaskFormerImageProcessor().encode_inputs(
        [np.zeros((3, 1, 4), np.float32)], [np.array([[2, 6, 7, 9]])]
    )
    assert encoded.mask_labels[0][:, 0].tolist() == np.eye(4).tolist()
    assert encoded.class_labels[0].tolist() == [2, 6, 7, 9]


def test_encode_inputs_pads_images_to_one_size_and_marks_what_is_image():
    images = [torch.ones(3, 4, 6), torch.ones(3, 5, 2)]
    batch = MaskFormerImageProcessor().encode_inputs(
        images, [np.ones((4, 6), int), np.ones((5, 2), int)], return_tensors="pt"
    )
    assert batch.pixel_values.shape == (2, 3, 5, 6)
    assert batch.pixel_mask.sum((1, 2)).tolist() == [24, 10]
    assert [masks.sum().item() for masks in batch.mask_labels] == [24, 10]
    assert batch.pixel_values.sum().item() == 3 * 34


def test_a_batch_has_keys_and_attributes_and_goes_to_devices_and_types():
    batch = MaskFormerImageProcessor(size=SIZE)(
        [draw_picture()], [draw_id_map()], return_tensors="pt"
    )
    assert set(batch) == {"pixel_values", "pixel_mask", "mask_labels", "class_labels"}
    moved = batch.to("meta")
    assert moved.pixel_values.device == moved["class_labels"][0].device == torch.device("meta")
    half = batch.to(torch.bfloat16)
    assert half.pixel_values.dtype == half.mask_labels[0].dtype == torch.bfloat16
    assert half.pixel_mask.dtype == torch.int64
    assert {**batch}.keys() == batch.keys()
    with pytest.raises(AttributeError, match="labels"):
        _ = batch.labels


def test_without_return_tensors_everything_is_lists_of_arrays():
    batch = MaskFormerImageProcessor(size=SIZE)([draw_picture(), draw_picture()])
    assert [type(image) for image in batch.pixel_values] == [np.ndarray] * 2


def test_a_pad_size_that_an_image_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="pad_size"):
        MaskFormerImageProcessor(do_resize=False, pad_size={"height": 10, "width": 99})(
            [draw_picture()]
        )


def test_settings_survive_a_file(tmp_path):
    processor = MaskFormerImageProcessor(
        size=512, ignore_index=255, num_labels=7, resize_rule="detectron2", image_mean=0.5
    )
    processor.save_pretrained(tmp_path)
    loaded = MaskFormerImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.size == {"shortest_edge": 512, "longest_edge": 1333}
    changed = MaskFormerImageProcessor.from_pretrained(tmp_path, size=100, ignore_index=None)
    assert changed.size["shortest_edge"] == 100
    assert changed.ignore_index is None


def test_files_go_from_transformers_to_us_and_back(tmp_path, transformers_processor):
    transformers_processor(size=SIZE, ignore_index=255, do_reduce_labels=True).save_pretrained(
        tmp_path
    )
    ours = MaskFormerImageProcessor.from_pretrained(tmp_path)
    assert (ours.size, ours.ignore_index, ours.do_reduce_labels) == (SIZE, 255, True)
    ours.save_pretrained(tmp_path)
    theirs = transformers_processor.from_pretrained(tmp_path)
    assert_close(
        ours(draw_picture(), return_tensors="pt").pixel_values,
        theirs(draw_picture(), return_tensors="pt").pixel_values,
    )


def test_a_file_of_transformers_4_is_read_with_its_old_names(tmp_path):
    old = {
        "do_normalize": True,
        "feature_extractor_type": "MaskFormerFeatureExtractor",
        "size": 640,
        "max_size": 2560,
        "size_divisibility": 8,
        "reduce_labels": True,
        "ignore_index": 255,
        "target_size": None,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    processor = MaskFormerImageProcessor.from_pretrained(tmp_path)
    assert processor.size == {"shortest_edge": 640, "longest_edge": 2560}
    assert processor.size_divisor == 8
    assert processor.do_reduce_labels


def test_a_folder_without_the_file_is_an_error_that_says_how_to_get_one(tmp_path):
    with pytest.raises(OSError, match=r"preprocessor_config\.json.*save_pretrained"):
        MaskFormerImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(OSError, match="must be JSON"):
        MaskFormerImageProcessor.from_pretrained(tmp_path)


def test_old_names_warn_and_unknown_ones_are_errors():
    with pytest.warns(DeprecationWarning, match="size_divisor"):
        assert MaskFormerImageProcessor(size_divisibility=8).size_divisor == 8
    with pytest.warns(FutureWarning, match="MaskFormerImageProcessor"):
        assert MaskFormerFeatureExtractor(max_size=900).size["longest_edge"] == 900
    with pytest.raises(TypeError, match="do_center_crop"):
        MaskFormerImageProcessor(do_center_crop=True)
    with pytest.raises(Exception, match="resize_rule"):
        MaskFormerImageProcessor(resize_rule="opencv")
    with pytest.raises(ValueError, match="pad_size must have the keys height and width"):
        MaskFormerImageProcessor(pad_size={"height": 64})
    with pytest.raises(ValueError, match="image_std must differ from 0"):
        MaskFormerImageProcessor(image_std=[1.0, 0.0, 1.0])


def test_the_trained_sample_models_file_is_read(shared):
    folder = shared / "weights/maskformer-efficientnet-lite0-camvid"
    processor = MaskFormerImageProcessor.from_pretrained(folder)
    assert processor.num_labels == processor.ignore_index == 11
    assert processor.size == {"shortest_edge": 384, "longest_edge": 1333}
