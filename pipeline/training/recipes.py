"""Recipes: how images are changed by chance before the network learns from them, as settings.

`augmentation.py` does it. `published_augmentation` gives the settings of the published models.
"""

from dataclasses import dataclass

from maskformer import MODELS

_DETR_SHORT_EDGES = (400, 500, 600)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Resizing, cropping, colours and mirroring, in this order; sizes in pixels.

    Without `short_edges` and `scale_jitter` images have the size that the model is given when it
    segments.
    """

    short_edges: tuple[int, ...] = ()
    """An image is resized to a short edge that is drawn from these."""
    max_edge: int | None = None
    """What the long edge may have then; null for any length."""
    scale_jitter: tuple[float, float] | None = None
    """In place of short_edges: an image is resized to fit into the crop, times a factor drawn
    between these two."""
    crop: tuple[int, int] | None = None
    """(height, width) of a crop, at a place that is drawn; smaller images keep their size."""
    crop_range: tuple[int, int] | None = None
    """As in DETR, in place of crop: half of the images are resized to one of crop_short_edges, cut
    to sides drawn between these two, and only then resized as the other half."""
    crop_short_edges: tuple[int, ...] = _DETR_SHORT_EDGES
    """See crop_range."""
    single_category_max_area: float = 1.0
    """The share of a crop's labelled pixels that one label may have. A crop with more, or with one
    label alone, is drawn again, up to ten times in all; 1 takes any crop, as published."""
    colour_jitter: bool = False
    """Brightness, contrast, saturation and hue, as in SSD."""
    flip: bool = True
    """Half of the images are mirrored, left to right."""
    pad_to_crop: bool = False
    """Images that are smaller than the crop are padded to it, with grey and void."""
    pad_to: tuple[int, int] | None = None
    """(height, width) of a batch, at least; else the largest image of a batch decides, and what is
    learnt from an image depends a little on those beside it."""

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


def published_augmentation(name: str) -> Augmentation:
    """Returns the augmentation of a published model, by its name in the zoo."""
    if name not in MODELS:
        raise ValueError(f"there is no published model {name}; see python -m maskformer.zoo")
    recipe = MODELS[name].recipe
    return Augmentation(
        short_edges=recipe.short_edges,
        max_edge=recipe.max_edge,
        crop=None if recipe.crop_is_range else recipe.crop,
        crop_range=recipe.crop if recipe.crop_is_range else None,
        colour_jitter=recipe.colour_jitter,
        pad_to_crop=recipe.pad_to_crop,
    )


def _need(name: str, other: object, other_name: str) -> None:
    if not other:
        raise ValueError(f"{name} has no effect without {other_name}; set both, or leave it out")


def _exclude(name: str, other: object, other_name: str) -> None:
    if other:
        raise ValueError(f"{name} and {other_name} stand for each other; set one of them")
