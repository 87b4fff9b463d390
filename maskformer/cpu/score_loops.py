"""The sum of resized label scores in a compiled loop, one line of one label at a time.

`postprocessing/score_sum.py` calls it for scores on a CPU.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from maskformer.bilinear import InterpolationGrid
from maskformer.cpu.compiled import compiled
from maskformer.cpu.loops import arrays, in_parts, widen


def add_resampled(
    maps: Float32[Tensor, "labels height width"],
    total: Float32[Tensor, "labels rows columns"],
    *,
    rows: InterpolationGrid,
    columns: InterpolationGrid,
    corner: tuple[int, int],
    row_weights: Float32[np.ndarray, " band"],
    column_weights: Float32[np.ndarray, " target_width"],
) -> None:
    """Adds the maps, resampled and weighted, to `total` from (row, column) `corner` on, in place.

    Each of torch's threads adds its own labels.
    """
    samples, sums = np.ascontiguousarray(maps.numpy()), total.numpy()
    places = *arrays(rows), *arrays(columns)

    def of_labels(first: int, end: int) -> None:
        weights = row_weights, column_weights
        _add(samples[first:end], *places, *weights, *corner, sums[first:end])

    in_parts(len(samples), of_labels)


# Without `fastmath` no multiplication is fused with an addition: results are torch's to the bit.
@compiled()
@no_type_check
def _add(
    maps,
    above,
    below,
    weight_below,
    left,
    right,
    weight_right,
    by_row,
    by_column,
    row,
    column,
    total,
):
    width = len(left)
    # The two rows of samples between which the line lies, at the new width.
    upper = np.empty(width, np.float32)
    lower = np.empty(width, np.float32)
    for number in range(len(maps)):
        row_upper, row_lower = -1, -1
        for line in range(len(above)):
            if above[line] != row_upper and above[line] == row_lower:
                upper, lower = lower, upper
                row_upper, row_lower = row_lower, -1
            if above[line] != row_upper:
                row_upper = above[line]
                widen(maps[number, row_upper], left, right, weight_right, upper)
            if below[line] != row_lower:
                row_lower = below[line]
                widen(maps[number, row_lower], left, right, weight_right, lower)
            into = total[number, row + line, column : column + width]
            weight, factor = weight_below[line], by_row[line]
            for x in range(width):
                value = (lower[x] - upper[x]) * weight + upper[x]
                into[x] += value * (factor * by_column[x])
