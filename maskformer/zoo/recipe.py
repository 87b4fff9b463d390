"""How the published models were trained and tested, as numbers."""

from dataclasses import dataclass
from typing import Any, Literal

from maskformer.zoo.backbones import ZooBackbone

_SHARES = range(5, 21)


@dataclass(frozen=True, kw_only=True)
class Testing:
    """The size of images in evaluation; edges in pixels."""

    short_edge: int
    max_edge: int
    size_divisor: int = 32
    """Images are padded to a multiple of it; 0 for none."""
    augmented_short_edges: tuple[int, ...] = ()
    """The sizes of multi-scale testing, each also mirrored; empty where none were published."""
    augmented_max_edge: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW over `num_steps` batches, with the gradient's norm over the whole model clipped."""

    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    """Not of norms, embeddings and relative positions, which have none."""
    backbone_rate: float
    """The backbone's learning rate as a share of the rest's."""
    schedule: Literal["polynomial", "steps"]
    power: float = 0.9
    """Of the polynomial, which ends at 0."""
    steps: tuple[int, ...] = ()
    """Where the rate falls to a tenth."""
    warmup_steps: int
    warmup_share: float
    """The share of the rate that a linear warm-up begins with."""
    clip_norm: float = 0.01
    auxiliary_losses: bool = True
    """On each decoder layer: `use_auxiliary_loss` of the configuration."""
    short_edges: tuple[int, ...]
    """Each image is resized to one of them, by chance."""
    max_edge: int
    crop: tuple[int, int]
    """(height, width). With `crop_is_range` its sides are drawn between the two numbers."""
    crop_is_range: bool = False
    """As in DETR: half of the images are cropped, after and before a resize."""
    colour_jitter: bool
    pad_to_crop: bool
    """Smaller images are padded, with grey (128) and ignored pixels."""


def polynomial_recipe(
    backbone: ZooBackbone,
    *,
    num_steps: int,
    batch_size: int = 16,
    size: int,
    crop: tuple[int, int],
    shares: range = _SHARES,
    pad_to_crop: bool = True,
) -> Recipe:
    """For ADE20K, COCO-Stuff, Cityscapes and Mapillary: edges of tenths of `size`."""
    return Recipe(
        num_steps=num_steps,
        batch_size=batch_size,
        schedule="polynomial",
        warmup_steps=1500 if backbone.is_swin else 0,
        short_edges=tuple(int(share * 0.1 * size) for share in shares),
        max_edge=4 * size,
        crop=crop,
        colour_jitter=True,
        pad_to_crop=pad_to_crop,
        **_optimisation(backbone),
    )


def coco_recipe(backbone: ZooBackbone, *, max_edge: int) -> Recipe:
    """For COCO panoptic: 300 epochs of DETR's augmentation."""
    return Recipe(
        num_steps=554_400,
        batch_size=64,
        schedule="steps",
        steps=(369_600,),
        warmup_steps=1500 if backbone.is_swin else 10,
        short_edges=tuple(range(480, 801, 32)),
        max_edge=max_edge,
        crop=(384, 600),
        crop_is_range=True,
        colour_jitter=False,
        pad_to_crop=False,
        **_optimisation(backbone),
    )


def _optimisation(backbone: ZooBackbone) -> dict[str, Any]:
    if backbone.is_swin:
        return {
            "learning_rate": 6e-5,
            "weight_decay": 0.01,
            "backbone_rate": 1.0,
            "warmup_share": 1e-6,
        }
    return {
        "learning_rate": 1e-4,
        "weight_decay": 1e-4,
        "backbone_rate": 0.1,
        "warmup_share": 1.0,
    }
