"""The arg-max of masks in compiled loops, one line of pixels at a time.

`postprocessing/mask_argmax.py` calls it for maps on a CPU, and says what the results are.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from torch import Tensor

from maskformer.bilinear import InterpolationGrid
from maskformer.cpu.compiled import compiled
from maskformer.cpu.loops import arrays, in_parts, widen


def argmax_at(
    maps: Float32[Tensor, "maps height width"],
    *,
    rows: InterpolationGrid,
    columns: InterpolationGrid,
    thresholds: Float32[Tensor, " maps"] | None,
) -> tuple[Int16[Tensor, "new_height new_width"], Int64[Tensor, " maps"], Int64[Tensor, " maps"]]:
    """Returns the highest map at each pixel, the pixels of each, and the areas above thresholds.

    Each of torch's threads computes its own lines of pixels.
    """
    num_lines = len(rows.before)
    winner = np.empty((num_lines, len(columns.before)), np.int16)
    samples = np.ascontiguousarray(maps.numpy())
    limits = np.full(len(maps), np.nan, np.float32) if thresholds is None else thresholds.numpy()

    def of_lines(first: int, end: int) -> np.ndarray:
        won_and_areas = np.zeros((2, len(samples)), np.int64)
        part = slice(first, end)
        _argmax_lines(
            samples, *arrays(rows[part]), *arrays(columns), limits, winner[part], *won_and_areas
        )
        return won_and_areas

    won, areas = torch.from_numpy(np.sum(in_parts(num_lines, of_lines), axis=0))
    return torch.from_numpy(winner), won, areas


def argmax(maps: Float32[Tensor, "maps height width"]) -> Int16[Tensor, "height width"]:
    """Returns the number of the highest map at each pixel, the first where several are equal."""
    winner = np.empty(maps.shape[1:], np.int16)
    _first_argmax_lines(maps.numpy(), winner)
    return torch.from_numpy(winner)


# Without `fastmath` no multiplication is fused with an addition: results are torch's to the bit.
@compiled()
@no_type_check
def _argmax_lines(
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
def _first_argmax_lines(maps, winner):
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
