"""The arg-max of masks: which of a stack of maps is highest at each pixel, after resizing.

Takes maps at the model's resolution; `panoptic.py` and `semantic.py` make segments of the result.
Resized maps are many times larger than the maps, and only two things are needed of them: the
highest map at each pixel, and the area of each map. So they are never whole in memory: a CPU
computes one line of pixels at a time in a compiled loop, other devices compute bands within a
budget of bytes. Both use the same operations for each value: pieces of any size give the result of
the whole to the last bit. The result is undefined where a value
is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int16, Int64
from torch import Tensor

from maskformer.bilinear import (
    CPU,
    InterpolationGrid,
    bands,
    byte_budget_of,
    interpolation_grids,
    resample,
)
from maskformer.cpu import argmax_loops


@dataclass(frozen=True, kw_only=True)
class MaskArgmax:
    """Holds the arg-max of a stack of resized maps, and how large each map is."""

    winner: Int16[Tensor, "height width"]
    """The number of the highest map at a pixel; the first where several are equal."""

    won: Int64[Tensor, " maps"]
    """The number of pixels at which each map is the highest."""

    areas: Int64[Tensor, " maps"]
    """How many pixels of each map are at or above its threshold; all 0 if none were given."""

    @classmethod
    def joined(cls, parts: "Sequence[MaskArgmax]") -> "MaskArgmax":
        """Joins the results of parts of an image, from top to bottom."""
        return cls(
            winner=torch.cat([part.winner for part in parts]),
            won=torch.stack([part.won for part in parts]).sum(0),
            areas=torch.stack([part.areas for part in parts]).sum(0),
        )


def mask_argmax(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int | None = None,
) -> MaskArgmax:
    """Resizes the maps to `size`; returns the highest map at each pixel, and the area of each."""
    rows, columns = interpolation_grids((maps.shape[1], maps.shape[2]), size, maps.device)
    return mask_argmax_at(
        maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=byte_budget
    )


def mask_argmax_at(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: InterpolationGrid,
    columns: InterpolationGrid,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int | None = None,
) -> MaskArgmax:
    """Returns the arg-max of the maps resampled at the given rows and columns."""
    if maps.device == CPU:
        winner, won, areas = argmax_loops.argmax_at(
            maps, rows=rows, columns=columns, thresholds=thresholds
        )
        return MaskArgmax(winner=winner, won=won, areas=areas)
    budget = byte_budget_of(maps.device) if byte_budget is None else byte_budget
    return _by_bands(maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=budget)


def mask_argmax_of(
    resized: Float32[Tensor, "maps height width"], thresholds: Float32[Tensor, " maps"] | None
) -> MaskArgmax:
    """Returns the arg-max of maps that have their final size. Does not wait for the device."""
    winner = first_argmax(resized)
    won = _count_each(winner, len(resized))
    if thresholds is None:
        areas = torch.zeros_like(won)
    else:
        areas = (resized >= thresholds[:, None, None]).sum((1, 2))
    return MaskArgmax(winner=winner, won=won, areas=areas)


def first_argmax(maps: Float32[Tensor, "maps height width"]) -> Int16[Tensor, "height width"]:
    """The number of the highest map at a pixel; the first where several are equal."""
    # torch.argmax along the first dimension is not vectorised on CPUs, and leaves ties open.
    if maps.device == CPU:
        return argmax_loops.argmax(maps)
    rank = torch.arange(len(maps), 0, -1, dtype=torch.int16, device=maps.device)
    ranks = (maps == maps.amax(0)) * rank[:, None, None]
    return len(maps) - ranks.amax(0).clamp_(min=1)


def _count_each(
    winner: Int16[Tensor, "height width"], num_maps: int
) -> Int64[Tensor, " {num_maps}"]:
    """Counts how often each number below `num_maps` occurs."""
    if winner.device == CPU:
        return torch.bincount(winner.flatten(), minlength=num_maps)
    # torch.bincount asks the device for the least and the largest number, and waits for both.
    numbers = torch.arange(num_maps, dtype=torch.int16, device=winner.device)
    return (winner == numbers[:, None, None]).sum((1, 2))


def _by_bands(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: InterpolationGrid,
    columns: InterpolationGrid,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int,
) -> MaskArgmax:
    new_height, new_width = len(rows.before), len(columns.before)
    return MaskArgmax.joined(
        [
            mask_argmax_of(resample(maps, rows=rows[band], columns=columns), thresholds)
            for band in bands(
                new_height, bytes_per_row=4 * len(maps) * new_width, byte_budget=byte_budget
            )
        ]
    )
