"""Augments an image and its map of ids together: resizes, crops, jitters colours, flips, pads.

`samples.py` decodes the image; `recipes.py` has the settings. Pixels are resized with
interpolation and ids to the nearest, so that masks stay on their objects and no new id appears.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from maskformer import MaskFormerImageProcessor
from pipeline.training.colour import colour_jitter
from pipeline.training.recipes import Augmentation

GREY = 128
"""The value of padding that is part of an image."""

_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The source row of each row of a view, and the source column of each column."""

    rows: Int64[Tensor, " height"]
    """-1 is padding."""
    columns: Int64[Tensor, " width"]
    """-1 is padding."""

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Grid":
        """Returns the grid of an image that is not changed."""
        return cls(rows=torch.arange(size[0]), columns=torch.arange(size[1]))


@dataclass(frozen=True, kw_only=True)
class View:
    """An augmented image and its map, of one size."""

    pixels: UInt8[Tensor, "3 height width"]
    ids: Integer[Tensor, "height width"]
    """0 is void."""
    grid: Grid | None = None
    """The grid for masks that the map cannot show; None where it shows all."""

    @property
    def size(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def resized(self, size: tuple[int, int]) -> "View":
        if size == self.size:
            return self
        return View(
            pixels=functional.resize_image(self.pixels, list(size), antialias=True),
            ids=_nearest(self.ids, size),
            grid=self.grid
            and Grid(
                rows=_nearest(self.grid.rows[:, None], (size[0], 1))[:, 0],
                columns=_nearest(self.grid.columns[None], (1, size[1]))[0],
            ),
        )

    def cropped(self, *, top: int, left: int, height: int, width: int) -> "View":
        rows, columns = slice(top, top + height), slice(left, left + width)
        return View(
            pixels=self.pixels[:, rows, columns],
            ids=self.ids[rows, columns],
            grid=self.grid and Grid(rows=self.grid.rows[rows], columns=self.grid.columns[columns]),
        )

    def mirrored(self) -> "View":
        return View(
            pixels=self.pixels.flip(-1),
            ids=self.ids.flip(-1),
            grid=self.grid and Grid(rows=self.grid.rows, columns=self.grid.columns.flip(-1)),
        )

    def padded(self, *, below: int, right: int) -> "View":
        """Pads the pixels with grey and the map with void."""
        return View(
            pixels=F.pad(self.pixels, (0, right, 0, below), value=GREY),
            ids=F.pad(self.ids, (0, right, 0, below)),
            grid=self.grid
            and Grid(
                rows=F.pad(self.grid.rows, (0, below), value=-1),
                columns=F.pad(self.grid.columns, (0, right), value=-1),
            ),
        )


def _nearest(
    ids: Integer[Tensor, "height width"], size: tuple[int, int]
) -> Integer[Tensor, "new_height new_width"]:
    # NEAREST, which torchvision takes for masks, is half a pixel off.
    return functional.resize_image(
        ids[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT
    )[0]


def augment(
    view: View,
    *,
    settings: Augmentation,
    processor: MaskFormerImageProcessor,
    label_of: Int64[np.ndarray, " ids"],
    random: np.random.Generator,
) -> View:
    """Returns the augmented view.

    Args:
        label_of: the label of each id, for the rule about crops of one label.
    """
    drawing = _Drawing(settings=settings, label_of=label_of, random=random)
    if settings.crop_range is not None:
        view = drawing.cropped_between_resizes(view)
    elif settings.scale_jitter is not None:
        view = drawing.jittered(view)
    elif settings.short_edges:
        view = drawing.resized(view, settings.short_edges, max_edge=settings.max_edge)
    else:
        view = view.resized(processor.resized_size(view.size))
    if (crop := settings.crop) is not None:
        view = drawing.cropped(view, draw_size=lambda: crop)
    if settings.colour_jitter:
        pixels = np.ascontiguousarray(view.pixels.permute(1, 2, 0).numpy())
        jittered = torch.tensor(colour_jitter(pixels, random=random))
        view = replace(view, pixels=jittered.permute(2, 0, 1))
    if settings.flip and random.random() < 0.5:
        view = view.mirrored()
    return _padded(view, size=crop) if settings.pad_to_crop and crop else view


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """Resizes and crops views to sizes and places that it draws."""

    settings: Augmentation
    label_of: Int64[np.ndarray, " ids"]
    random: np.random.Generator

    def cropped_between_resizes(self, view: View) -> View:
        """Crops between two resizes in half of the cases, as DETR does; resizes in the others."""
        assert self.settings.crop_range is not None
        low, high = self.settings.crop_range
        if self.random.random() < 0.5:
            view = self.resized(view, self.settings.crop_short_edges, max_edge=None)

            def draw_size() -> tuple[int, int]:
                height, width = (
                    int(self.random.integers(min(side, low), min(side, high) + 1))
                    for side in view.size
                )
                return height, width

            view = self.cropped(view, draw_size=draw_size)
        return self.resized(view, self.settings.short_edges, max_edge=self.settings.max_edge)

    def resized(self, view: View, short_edges: tuple[int, ...], *, max_edge: int | None) -> View:
        """Draws one of the short edges; the aspect ratio stays."""
        short_edge = short_edges[int(self.random.integers(len(short_edges)))]
        scale = short_edge / min(view.size)
        if max_edge is not None:
            scale = min(scale, max_edge / max(view.size))
        return _scaled(view, scale)

    def jittered(self, view: View) -> View:
        """Fits the view into the crop, times a drawn factor."""
        assert self.settings.scale_jitter is not None
        assert self.settings.crop is not None
        factor = self.random.uniform(*self.settings.scale_jitter)
        crop, size = self.settings.crop, view.size
        return _scaled(view, min(crop[0] / size[0], crop[1] / size[1]) * factor)

    def cropped(self, view: View, *, draw_size: Callable[[], tuple[int, int]]) -> View:
        """Crops so that no label fills too much of it; after ten tries takes the last crop."""
        for _ in range(_TRIES):
            height, width = (min(pair) for pair in zip(draw_size(), view.size, strict=True))
            top = int(self.random.integers(view.size[0] - height + 1))
            left = int(self.random.integers(view.size[1] - width + 1))
            if self._is_varied(view.ids[top : top + height, left : left + width]):
                break
        return view.cropped(top=top, left=left, height=height, width=width)

    def _is_varied(self, ids: Integer[Tensor, "height width"]) -> bool:
        """True if there are two labels and none exceeds its share; void does not count."""
        if (max_share := self.settings.single_category_max_area) == 1:
            return True
        of_id = np.bincount(ids.flatten().numpy(), minlength=len(self.label_of))
        is_label = self.label_of >= 0
        of_label = np.bincount(self.label_of[is_label], weights=of_id[is_label])
        return bool((of_label > 0).sum() > 1 and of_label.max() < max_share * of_label.sum())


def _scaled(view: View, scale: float) -> View:
    height, width = (max(int(side * scale + 0.5), 1) for side in view.size)
    return view.resized((height, width))


def _padded(view: View, *, size: tuple[int, int]) -> View:
    """Pads below and to the right to at least `size`, with grey and void."""
    below, right = (max(wanted - side, 0) for wanted, side in zip(size, view.size, strict=True))
    return view.padded(below=below, right=right) if below or right else view
