"""Settings of augmentation: the published ones, and those that would do nothing."""

import pytest

from pipeline.runtime.settings import WrongUsage, parse
from pipeline.training.recipes import Augmentation, published_augmentation


def test_the_published_semantic_recipe() -> None:
    found = published_augmentation("maskformer-swin-base-ade20k")
    assert found == Augmentation(
        short_edges=(320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152,
                     1216, 1280),
        max_edge=2560,
        crop=(640, 640),
        colour_jitter=True,
        pad_to_crop=True,
    )  # fmt: skip
    assert found.padded_size == (640, 640)
    assert (found.single_category_max_area, found.flip) == (1.0, True)


def test_the_published_recipe_of_cityscapes_pads_nothing() -> None:
    found = published_augmentation("maskformer-resnet101c-cityscapes")
    assert found.short_edges[0] == 512
    assert found.short_edges[-1] == 2048
    assert (found.max_edge, found.crop) == (4096, (512, 1024))
    assert found.padded_size is None


def test_the_published_panoptic_recipe_is_that_of_detr() -> None:
    assert published_augmentation("maskformer-resnet50-coco-panoptic") == Augmentation(
        short_edges=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        max_edge=1333,
        crop_range=(384, 600),
        crop_short_edges=(400, 500, 600),
    )


def test_a_model_that_nobody_published_has_no_recipe() -> None:
    with pytest.raises(ValueError, match="no published model maskformer-none"):
        published_augmentation("maskformer-none")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_edge": 100}, "max_edge has no effect without short_edges"),
        ({"short_edges": (64,), "max_edge": 32}, "max_edge must be at least the smallest"),
        ({"short_edges": (0,)}, "short_edges must be whole pixels from 1"),
        ({"scale_jitter": (0.5, 2.0)}, "scale_jitter has no effect without crop"),
        (
            {"scale_jitter": (0.5, 2.0), "crop": (8, 8), "short_edges": (8,)},
            "scale_jitter and short_edges stand for each other",
        ),
        ({"scale_jitter": (2.0, 0.5), "crop": (8, 8)}, "scale_jitter must rise"),
        ({"crop_range": (8, 16), "short_edges": (8,), "crop": (8, 8)}, "crop_range and crop stand"),
        ({"crop_range": (8, 16)}, "crop_range has no effect without short_edges"),
        ({"crop_range": (16, 8), "short_edges": (8,)}, "crop_range must rise"),
        ({"crop_short_edges": (8,)}, "crop_short_edges has no effect without crop_range"),
        ({"single_category_max_area": 0.7}, "single_category_max_area has no effect without crop"),
        ({"single_category_max_area": 1.5, "crop": (8, 8)}, "is a share"),
        ({"pad_to_crop": True}, "pad_to_crop has no effect without crop"),
        ({"pad_to_crop": True, "crop": (8, 8), "pad_to": (9, 9)}, "pad_to_crop and pad_to stand"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Augmentation(**settings)


def test_settings_are_read_from_the_command_line() -> None:
    words = ["--short_edges", "64,80", "--crop", "32,48", "--pad_to_crop", "--flip", "false"]
    found = parse([Augmentation], arguments=words).of(Augmentation)
    assert found == Augmentation(short_edges=(64, 80), crop=(32, 48), pad_to_crop=True, flip=False)
    with pytest.raises(WrongUsage, match="crop must be"):
        parse([Augmentation], arguments=["--crop", "1,2,3"])
