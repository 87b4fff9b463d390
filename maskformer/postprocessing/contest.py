"""The contest of masks: who leads at each pixel of a stack of maps once they are resized.

Takes maps at the model's resolution; `segmentation.py` makes segments of what comes out. Resized
maps are many times larger than what they are made of, and all that is wanted of them is which one
is highest at each pixel and how large each is. So they are never whole in memory: on a CPU a
compiled loop makes one line of pixels at a time, on other devices bands within a budget of bytes.
Each value comes of the same operations either way: pieces of any size give what the whole would
give, to the last bit. Values are numbers; where one is not, who leads is not defined.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from torch import Tensor

from maskformer.bilinear import (
    CPU,
    Places,
    bands,
    byte_budget_of,
    places_2d,
    resample,
)
from maskformer.cpu.compiled import compiled
from maskformer.cpu.loops import arrays, in_parts, widen


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What a stack of resized maps comes to."""

    winner: Int16[Tensor, "height width"]
    """The first of the maps that are highest at a pixel."""

    won: Int64[Tensor, " maps"]
    """How many pixels each map leads."""

    areas: Int64[Tensor, " maps"]
    """How many pixels of each map are at or above its threshold; all 0 if none were given."""

    @classmethod
    def joined(cls, parts: "Sequence[Contest]") -> "Contest":
        """Of parts of an image, from top to bottom."""
        return cls(
            winner=torch.cat([part.winner for part in parts]),
            won=torch.stack([part.won for part in parts]).sum(0),
            areas=torch.stack([part.areas for part in parts]).sum(0),
        )


def contest(
    maps: Float32[Tensor, "maps height width"],
    size: tuple[int, int],
    *,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int | None = None,
) -> Contest:
    """Who leads where, and how large each map is, once the maps have been resized to `size`."""
    rows, columns = places_2d((maps.shape[1], maps.shape[2]), size, maps.device)
    return contest_at(
        maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=byte_budget
    )


def contest_at(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: Places,
    columns: Places,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int | None = None,
) -> Contest:
    """`contest` at the given places."""
    if maps.device == CPU:
        return _by_lines(maps, rows=rows, columns=columns, thresholds=thresholds)
    budget = byte_budget_of(maps.device) if byte_budget is None else byte_budget
    return _by_bands(maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=budget)


def contest_of(
    resized: Float32[Tensor, "maps height width"], thresholds: Float32[Tensor, " maps"] | None
) -> Contest:
    """Who leads where in maps that have their size. No device is waited for."""
    winner = first_argmax(resized)
    won = _count_each(winner, len(resized))
    if thresholds is None:
        areas = torch.zeros_like(won)
    else:
        areas = (resized >= thresholds[:, None, None]).sum((1, 2))
    return Contest(winner=winner, won=won, areas=areas)


def first_argmax(maps: Float32[Tensor, "maps height width"]) -> Int16[Tensor, "height width"]:
    """The first of the maps that are highest at a pixel."""
    # torch.argmax along the first dimension is not vectorised on CPUs, and leaves ties open.
    if maps.device == CPU:
        winner = np.empty(maps.shape[1:], np.int16)
        _first_argmax(maps.numpy(), winner)
        return torch.from_numpy(winner)
    rank = torch.arange(len(maps), 0, -1, dtype=torch.int16, device=maps.device)
    ranks = (maps == maps.amax(0)) * rank[:, None, None]
    return len(maps) - ranks.amax(0).clamp_(min=1)


def _count_each(
    winner: Int16[Tensor, "height width"], num_maps: int
) -> Int64[Tensor, " {num_maps}"]:
    """How often each number below `num_maps` occurs."""
    if winner.device == CPU:
        return torch.bincount(winner.flatten(), minlength=num_maps)
    # torch.bincount asks the device for the least and the largest number, and waits for both.
    numbers = torch.arange(num_maps, dtype=torch.int16, device=winner.device)
    return (winner == numbers[:, None, None]).sum((1, 2))


def _by_bands(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: Places,
    columns: Places,
    thresholds: Float32[Tensor, " maps"] | None,
    byte_budget: int,
) -> Contest:
    new_height, new_width = len(rows.before), len(columns.before)
    return Contest.joined(
        [
            contest_of(resample(maps, rows=rows[band], columns=columns), thresholds)
            for band in bands(
                new_height, bytes_per_row=4 * len(maps) * new_width, byte_budget=byte_budget
            )
        ]
    )


def _by_lines(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: Places,
    columns: Places,
    thresholds: Float32[Tensor, " maps"] | None,
) -> Contest:
    """In as many threads as torch may use, each with its own lines of pixels."""
    num_lines = len(rows.before)
    winner = np.empty((num_lines, len(columns.before)), np.int16)
    samples = np.ascontiguousarray(maps.numpy())
    limits = np.full(len(maps), np.nan, np.float32) if thresholds is None else thresholds.numpy()

    def of_lines(first: int, end: int) -> np.ndarray:
        won_and_areas = np.zeros((2, len(samples)), np.int64)
        part = slice(first, end)
        _contest_of_lines(
            samples, *arrays(rows[part]), *arrays(columns), limits, winner[part], *won_and_areas
        )
        return won_and_areas

    counted = np.sum(in_parts(num_lines, of_lines), axis=0)
    won, areas = torch.from_numpy(counted)
    return Contest(winner=torch.from_numpy(winner), won=won, areas=areas)


# Without `fastmath` no multiplication is fused with an addition: results are torch's to the bit.
@compiled()
@no_type_check
def _contest_of_lines(
    maps, above, below, weight_below, left, right, weight_right, limits, winner, won, areas
):
    num_maps, width = len(maps), len(left)
    # The two rows of samples between which the line lies, at the new width.
    upper = np.empty((num_maps, width), np.float32)
    lower = np.empty((num_maps, width), np.float32)
    row_upper, row_lower = -1, -1
    highest = np.empty(width, np.float32)
    leader = np.empty(width, np.int32)
    for line in range(len(above)):
        if above[line] != row_upper and above[line] == row_lower:
            upper, lower = lower, upper
            row_upper, row_lower = row_lower, -1
        if above[line] != row_upper:
            row_upper = above[line]
            for number in range(num_maps):
                widen(maps[number, row_upper], left, right, weight_right, upper[number])
        if below[line] != row_lower:
            row_lower = below[line]
            for number in range(num_maps):
                widen(maps[number, row_lower], left, right, weight_right, lower[number])
        weight = weight_below[line]
        highest[:] = -np.inf
        leader[:] = 0
        for number in range(num_maps):
            limit, area = limits[number], 0
            for x in range(width):
                value = (lower[number, x] - upper[number, x]) * weight + upper[number, x]
                area += np.int32(value >= limit)
                leads = value > highest[x]
                highest[x] = value if leads else highest[x]
                leader[x] = np.int32(number) if leads else leader[x]
            areas[number] += area
        for x in range(width):
            winner[line, x] = leader[x]
            won[leader[x]] += 1


@compiled()
@no_type_check
def _first_argmax(maps, winner):
    num_maps, height, width = maps.shape
    highest = np.empty(width, np.float32)
    leader = np.empty(width, np.int32)
    for line in range(height):
        highest[:] = -np.inf
        leader[:] = 0
        for number in range(num_maps):
            for x in range(width):
                value = maps[number, line, x]
                leads = value > highest[x]
                highest[x] = value if leads else highest[x]
                leader[x] = np.int32(number) if leads else leader[x]
        for x in range(width):
            winner[line, x] = leader[x]
