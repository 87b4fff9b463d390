"""The published models by name, as their zoo lists them.

A name is made of backbone and dataset. The panoptic ResNets are those with an encoder in the pixel
decoder. Of the per-pixel baselines there is none: they are no MaskFormers.
"""

from collections.abc import Mapping
from types import MappingProxyType

from maskformer.zoo import backbones, datasets
from maskformer.zoo.datasets import Dataset
from maskformer.zoo.entry import Entry, Published, Thresholds, Weights
from maskformer.zoo.recipe import Recipe, Testing, coco_recipe, polynomial_recipe

_FILES = "https://dl.fbaipublicfiles.com/maskformer"

_BACKBONES = {
    "resnet50": backbones.RESNET50,
    "resnet101": backbones.RESNET101,
    "resnet101c": backbones.RESNET101C,
    "swin-tiny": backbones.SWIN_TINY,
    "swin-small": backbones.SWIN_SMALL,
    "swin-base": backbones.SWIN_BASE,
    "swin-large": backbones.SWIN_LARGE,
}
# Their names in the released files.
_FILE_NAMES = {
    "resnet50": "R50",
    "resnet101": "R101",
    "resnet101c": "R101c",
    "swin-tiny": "swin_tiny",
    "swin-small": "swin_small",
    "swin-base": "swin_base_IN21k_384",
    "swin-large": "swin_large_IN21k_384",
}

_AT_512 = Testing(
    short_edge=512,
    max_edge=2048,
    augmented_short_edges=(256, 384, 512, 640, 768, 896),
    augmented_max_edge=3584,
)
_AT_640 = Testing(
    short_edge=640,
    max_edge=2560,
    augmented_short_edges=(320, 480, 640, 800, 960, 1120),
    augmented_max_edge=4480,
)
_CITYSCAPES = Testing(
    short_edge=1024,
    max_edge=2048,
    augmented_short_edges=(512, 768, 1024, 1280, 1536, 1792),
    augmented_max_edge=4096,
)
# The sizes of Mapillary's multi-scale testing were not published.
_MAPILLARY = Testing(short_edge=2048, max_edge=2048)
_ADE20K_FULL = Testing(short_edge=512, max_edge=2048)
_ADE20K_PANOPTIC = Testing(short_edge=640, max_edge=2560)
_COCO = Testing(short_edge=800, max_edge=1333, size_divisor=0)


def _ade20k(backbone: str, md5_start: str, miou: float, augmented: float) -> Entry:
    at_640 = backbone in ("swin-base", "swin-large")
    size = 640 if at_640 else 512
    return _semantic(
        backbone,
        "ade20k",
        dataset=datasets.ADE20K,
        testing=_AT_640 if at_640 else _AT_512,
        recipe=polynomial_recipe(
            _BACKBONES[backbone], num_steps=160_000, size=size, crop=(size, size)
        ),
        published=Published(miou=miou, miou_augmented=augmented),
        folder=f"semantic-ade20k/maskformer_{_FILE_NAMES[backbone]}_bs16_160k"
        + ("_res640" if at_640 else ""),
        md5_start=md5_start,
        hub_name=None if backbone == "resnet101c" else f"{backbone}-ade",
    )


def _coco_stuff(backbone: str, md5_start: str, miou: float, augmented: float) -> Entry:
    return _semantic(
        backbone,
        "coco-stuff-10k",
        dataset=datasets.COCO_STUFF_10K,
        testing=_AT_640,
        recipe=polynomial_recipe(
            _BACKBONES[backbone],
            num_steps=60_000,
            batch_size=32,
            size=640,
            crop=(640, 640),
            shares=range(5, 16),
        ),
        published=Published(miou=miou, miou_augmented=augmented),
        folder=f"semantic-coco-stuff-10k/maskformer_{_FILE_NAMES[backbone]}_bs32_60k",
        md5_start=md5_start,
        hub_name=None if backbone == "resnet101c" else f"{backbone}-coco-stuff",
    )


def _ade20k_full(backbone: str, md5_start: str, miou: float) -> Entry:
    return _semantic(
        backbone,
        "ade20k-full",
        dataset=datasets.ADE20K_FULL,
        testing=_ADE20K_FULL,
        recipe=polynomial_recipe(
            _BACKBONES[backbone], num_steps=200_000, size=512, crop=(512, 512)
        ),
        published=Published(miou=miou),
        folder=f"semantic-ade20k-full/maskformer_{_FILE_NAMES[backbone]}_bs16_200k",
        md5_start=md5_start,
        hub_name=None if backbone == "resnet101c" else f"{backbone}-ade20k-full",
    )


def _cityscapes(backbone: str, md5_start: str, miou: float, augmented: float) -> Entry:
    return _semantic(
        backbone,
        "cityscapes",
        dataset=datasets.CITYSCAPES,
        testing=_CITYSCAPES,
        recipe=polynomial_recipe(
            _BACKBONES[backbone],
            num_steps=90_000,
            size=1024,
            crop=(512, 1024),
            # Its images are never smaller than the crop.
            pad_to_crop=False,
        ),
        published=Published(miou=miou, miou_augmented=augmented),
        folder=f"semantic-cityscapes/maskformer_{_FILE_NAMES[backbone]}_bs16_90k",
        md5_start=md5_start,
        hub_name=None if backbone == "resnet101c" else f"{backbone}-cityscapes",
    )


def _mapillary(backbone: str, md5_start: str, miou: float, augmented: float) -> Entry:
    return _semantic(
        backbone,
        "mapillary-vistas",
        dataset=datasets.MAPILLARY_VISTAS,
        testing=_MAPILLARY,
        recipe=polynomial_recipe(
            _BACKBONES[backbone], num_steps=300_000, size=2048, crop=(1280, 1280)
        ),
        published=Published(miou=miou, miou_augmented=augmented),
        folder=f"semantic-mapillary-vistas/maskformer_{_FILE_NAMES[backbone]}_bs16_300k",
        md5_start=md5_start,
        hub_name=f"{backbone}-vistas",
    )


def _semantic(
    backbone: str,
    dataset_name: str,
    *,
    dataset: Dataset,
    testing: Testing,
    recipe: Recipe,
    published: Published,
    folder: str,
    md5_start: str,
    hub_name: str | None,
) -> Entry:
    return Entry(
        name=f"maskformer-{backbone}-{dataset_name}",
        task="semantic",
        dataset=dataset,
        backbone=_BACKBONES[backbone],
        has_pixel_encoder=False,
        testing=testing,
        thresholds=None,
        recipe=recipe,
        published=published,
        weights=_weights(folder, md5_start, hub_name),
    )


def _coco_panoptic(backbone: str, md5_start: str, pq: float) -> Entry:
    spec = _BACKBONES[backbone]
    return Entry(
        name=f"maskformer-{backbone}-coco-panoptic",
        task="panoptic",
        dataset=datasets.COCO_PANOPTIC,
        backbone=spec,
        has_pixel_encoder=not spec.is_swin,
        testing=_COCO,
        thresholds=Thresholds(threshold=0.8),
        # Swin-L's images are smaller for want of memory.
        recipe=coco_recipe(spec, max_edge=1000 if backbone == "swin-large" else 1333),
        published=Published(pq=pq),
        weights=_weights(
            f"panoptic-coco/maskformer_panoptic_{_FILE_NAMES[backbone]}_bs64_554k",
            md5_start,
            f"{backbone}-coco" if spec.is_swin else None,
        ),
    )


def _ade20k_panoptic(backbone: str, md5_start: str, pq: float) -> Entry:
    spec = _BACKBONES[backbone]
    return Entry(
        name=f"maskformer-{backbone}-ade20k-panoptic",
        task="panoptic",
        dataset=datasets.ADE20K,
        backbone=spec,
        has_pixel_encoder=True,
        testing=_ADE20K_PANOPTIC,
        thresholds=Thresholds(threshold=0.7),
        recipe=polynomial_recipe(spec, num_steps=720_000, size=640, crop=(640, 640)),
        published=Published(pq=pq),
        weights=_weights(
            f"panoptic-ade20k/maskformer_panoptic_{_FILE_NAMES[backbone]}_bs16_720k",
            md5_start,
            None,
        ),
    )


def _weights(folder: str, md5_start: str, hub_name: str | None) -> Weights:
    return Weights(
        url=f"{_FILES}/{folder}/model_final_{md5_start}.pkl",
        md5_start=md5_start,
        hub_id=None if hub_name is None else f"facebook/maskformer-{hub_name}",
    )


_ENTRIES = [
    _ade20k("resnet50", "d8dbeb", 44.5, 46.7),
    _ade20k("resnet101", "1aeb94", 45.5, 47.2),
    _ade20k("resnet101c", "b432ea", 46.0, 48.1),
    _ade20k("swin-tiny", "8657a5", 46.7, 48.8),
    _ade20k("swin-small", "528157", 49.8, 51.0),
    _ade20k("swin-base", "45388b", 52.7, 53.9),
    _ade20k("swin-large", "aefa3b", 54.1, 55.6),
    _coco_stuff("resnet50", "cb03eb", 37.1, 38.9),
    _coco_stuff("resnet101", "eb19bb", 38.1, 39.8),
    _coco_stuff("resnet101c", "bffd25", 38.0, 39.3),
    _ade20k_full("resnet50", "f4e3f6", 16.0),
    _ade20k_full("resnet101", "88df33", 16.8),
    _ade20k_full("resnet101c", "75d34e", 17.4),
    _cityscapes("resnet101", "38c00c", 78.5, 80.3),
    _cityscapes("resnet101c", "4f8ff9", 79.7, 81.4),
    _mapillary("resnet50", "f3fc73", 53.1, 55.4),
    _coco_panoptic("resnet50", "6f60dc", 46.5),
    _coco_panoptic("resnet101", "57b049", 47.6),
    _coco_panoptic("swin-tiny", "539394", 47.7),
    _coco_panoptic("swin-small", "5bf6b1", 49.7),
    _coco_panoptic("swin-base", "4b7f49", 51.8),
    _coco_panoptic("swin-large", "7505c4", 52.7),
    _ade20k_panoptic("resnet50", "7aa977", 34.7),
    _ade20k_panoptic("resnet101", "0b3cc8", 35.7),
]

MODELS: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
