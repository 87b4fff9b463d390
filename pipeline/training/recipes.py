"""Recipes: the settings with which published models were trained, and those of augmentation.

`augmentation.py` changes images as `Augmentation` says. The numbers of a recipe are the zoo's.
"""

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from maskformer import MODELS

_DETR_SHORT_EDGES = (400, 500, 600)
_PREFIX = "maskformer-"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random resizing, cropping, colours and mirroring, in this order; sizes in pixels.

    Without `short_edges` and `scale_jitter` images have the size that the model is given when it
    segments.
    """

    short_edges: tuple[int, ...] = ()
    """Resize an image to a short edge that is drawn from these."""
    max_edge: int | None = None
    """Longest long edge after that; any length where not given."""
    scale_jitter: tuple[float, float] | None = None
    """In place of --short_edges: fit the image into the crop, times a factor drawn between
    these."""
    crop: tuple[int, int] | None = None
    """Crop this much at a random place; smaller images keep their size."""
    crop_range: tuple[int, int] | None = None
    """As in DETR, in place of --crop: the least and the greatest side of a crop. Half of the images
    are resized to one of --crop_short_edges, cut to sides drawn between these two, and only then
    resized as the other half."""
    crop_short_edges: tuple[int, ...] = _DETR_SHORT_EDGES
    """Short edges that images have before --crop_range."""
    single_category_max_area: float = 1.0
    """Largest share of a crop's labelled pixels that one label may have. A crop with more, or with
    one label alone, is drawn again, up to ten times in all; 1 takes any crop, as published."""
    colour_jitter: bool = False
    """Change brightness, contrast, saturation and hue by chance, as in SSD."""
    flip: bool = True
    """Mirror half of the images, left to right."""
    pad_to_crop: bool = False
    """Pad images that are smaller than the crop to it, with grey and void."""
    pad_to: tuple[int, int] | None = None
    """Least size of a batch. Else the largest image of a batch decides, and what is learnt from an
    image depends a little on those beside it."""

    def __post_init__(self) -> None:
        for name in ("short_edges", "crop_short_edges", "crop", "crop_range", "pad_to"):
            if any(side < 1 for side in getattr(self, name) or ()):
                raise ValueError(f"{name} must be whole pixels from 1, got {getattr(self, name)}")
        self._check_resizing()
        self._check_cropping()

    @property
    def padded_size(self) -> tuple[int, int] | None:
        """(height, width) that batches have at least."""
        return self.crop if self.pad_to_crop else self.pad_to

    def _check_resizing(self) -> None:
        if self.max_edge is not None:
            _need("max_edge", self.short_edges, "short_edges")
            if self.max_edge < min(self.short_edges):
                raise ValueError(
                    f"max_edge must be at least the smallest of short_edges, got {self.max_edge} "
                    f"and {min(self.short_edges)}"
                )
        if self.scale_jitter is not None:
            _need("scale_jitter", self.crop, "crop")
            _exclude("scale_jitter", self.short_edges, "short_edges")
            low, high = self.scale_jitter
            if not 0 < low <= high:
                raise ValueError(f"scale_jitter must rise from above 0, got {low}, {high}")

    def _check_cropping(self) -> None:
        if self.crop_range is not None:
            _exclude("crop_range", self.crop, "crop")
            _need("crop_range", self.short_edges, "short_edges")
            _need("crop_range", self.crop_short_edges, "crop_short_edges")
            if self.crop_range[0] > self.crop_range[1]:
                raise ValueError(f"crop_range must rise, got {self.crop_range}")
        elif self.crop_short_edges != _DETR_SHORT_EDGES:
            _need("crop_short_edges", self.crop_range, "crop_range")
        if not 0 < self.single_category_max_area <= 1:
            raise ValueError(
                "single_category_max_area is a share, above 0 and up to 1, got "
                f"{self.single_category_max_area}"
            )
        if self.single_category_max_area < 1:
            _need("single_category_max_area", self.crop or self.crop_range, "crop")
        if self.pad_to_crop:
            _need("pad_to_crop", self.crop, "crop")
            _exclude("pad_to_crop", self.pad_to, "pad_to")


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """All settings of a published model at once."""

    recipe: str | None = None
    """Published settings of a zoo model, as swin-tiny-ade20k. The file of --config and other
    options come before them. `maskformer zoo` lists the names."""


def recipe_names() -> list[str]:
    """Returns the names of the published recipes."""
    return [name.removeprefix(_PREFIX) for name in MODELS]


def recipe_settings(name: str) -> dict[str, Any]:
    """Returns the settings that differ from the defaults, by name, for the published recipe.

    Raises:
        ValueError: nobody published such a model.
    """
    entry = _entry(name)
    recipe, is_semantic = entry.recipe, entry.task == "semantic"
    values: dict[str, Any] = {
        "model": _pretrained(entry.backbone.imagenet),
        "architecture": entry.name,
        "task": entry.task,
        # As published: 8 GPUs, or one image for each of 64.
        "num_workers": 64 if recipe.batch_size == 64 else 8,
        "num_steps": recipe.num_steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "backbone_rate": recipe.backbone_rate,
        "schedule": recipe.schedule,
        "checkpoint_every": 5000,
        **{
            field: value
            for field, value in dataclasses.asdict(published_augmentation(name)).items()
            if value != getattr(Augmentation(), field)
        },
    }
    if is_semantic:
        values["ignore_index"] = entry.dataset.ignore_index
    if is_semantic and entry.dataset.zero_is_ignored:
        values["reduce_labels"] = True
    if recipe.steps:
        values["decay_steps"] = recipe.steps
    if recipe.warmup_steps:
        values |= {"warmup_steps": recipe.warmup_steps, "warmup_share": recipe.warmup_share}
    if entry.thresholds is not None:
        values["threshold"] = entry.thresholds.threshold
    return values


def recipe_comment(name: str) -> str:
    """Returns lines of comment: what a recipe is for, its command, hardware and published score."""
    entry = _entry(name)
    short, recipe, published = entry.name.removeprefix(_PREFIX), entry.recipe, entry.published
    workers = recipe_settings(name)["num_workers"]
    images = f"{recipe.batch_size // workers} image{'s' if recipe.batch_size > workers else ''}"
    weights = entry.backbone.imagenet
    source = f" (weights from {weights})" if "://" in weights else ""
    score = f"{published.pq} PQ" if published.pq is not None else f"{published.miou} mIoU"
    if published.miou_augmented is not None:
        score += f", {published.miou_augmented} with several scales and mirrored"
    lines = [
        f"{entry.task.capitalize()} segmentation of {entry.dataset.title}, "
        f"{len(entry.dataset.labels)} labels, with {entry.backbone.title}: the published recipe.",
        f"maskformer train --recipe {short} --dataset URI --validation URI --output FOLDER{source}",
        f"{workers} GPUs of 32 GB, {images} each, as published; with fewer, raise micro_batches "
        "or set gradient_checkpointing. Faster, and not published: precision bf16, tf32, compile. "
        "Hours were not published, nor measured here.",
        f"Expect {score} on the validation set, as published (not trained here).",
    ]
    return "".join(f"# {line}\n" for line in lines)


def published_augmentation(name: str) -> Augmentation:
    """Returns the augmentation of a published model, by its name in the zoo.

    Raises:
        ValueError: nobody published such a model.
    """
    recipe = _entry(name).recipe
    return Augmentation(
        short_edges=recipe.short_edges,
        max_edge=recipe.max_edge,
        crop=None if recipe.crop_is_range else recipe.crop,
        crop_range=recipe.crop if recipe.crop_is_range else None,
        colour_jitter=recipe.colour_jitter,
        pad_to_crop=recipe.pad_to_crop,
    )


def _entry(name: str) -> Any:
    """Returns the entry of the zoo; its name may be given without maskformer- before it."""
    entry = MODELS.get(name) or MODELS.get(f"{_PREFIX}{name}")
    if entry is None:
        near = get_close_matches(name.removeprefix(_PREFIX), recipe_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see maskformer zoo"
        raise ValueError(f"there is no published model {name}{hint}")
    return entry


def _pretrained(imagenet: str) -> str:
    """Returns what --model takes: a name on the hub, or the file of a URL, once downloaded."""
    return imagenet.rsplit("/", 1)[-1] if "://" in imagenet else f"timm/{imagenet}"


def _need(name: str, other: object, other_name: str) -> None:
    if not other:
        raise ValueError(f"{name} has no effect without {other_name}; set both, or leave it out")


def _exclude(name: str, other: object, other_name: str) -> None:
    if other:
        raise ValueError(f"{name} and {other_name} stand for each other; set one of them")
