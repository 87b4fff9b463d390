"""Label scores of some rows of an image, summed over several views of it.

Takes what `view.py` gives, before it is resized. Resized scores of all labels are large, and all
that is wanted of each view's is their sum: on a CPU a compiled loop makes one line of one label at
a time and adds it.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from maskformer.bilinear import CPU
from maskformer.cpu.compiled import compiled
from maskformer.cpu.loops import arrays, in_parts, widen
from maskformer.postprocessing.contest import first_argmax
from maskformer.postprocessing.geometry import Crop


class ScoreSum:
    """The sum for each label and pixel of some rows; which label leads is asked in the end."""

    def __init__(self, *, num_labels: int, num_rows: int, width: int, device: torch.device) -> None:
        self._total = torch.zeros((num_labels, num_rows, width), device=device)

    def add(
        self,
        scores: Crop,
        *,
        row: int = 0,
        column: int = 0,
        row_weights: Float32[np.ndarray, " band"] | None = None,
        column_weights: Float32[np.ndarray, " target_width"] | None = None,
    ) -> None:
        """Scores that begin at (row, column), times the weights of their rows and columns."""
        height, width = len(scores.rows.before), len(scores.columns.before)
        by_row = np.ones(height, np.float32) if row_weights is None else row_weights
        by_column = np.ones(width, np.float32) if column_weights is None else column_weights
        if self._total.device == CPU:
            self._add_lines(scores, row, column, by_row, by_column)
            return
        weights = torch.from_numpy(by_row[:, None] * by_column).to(self._total.device)
        part = self._total[:, row : row + height, column : column + width]
        part += scores.resized().mul_(weights)

    def _add_lines(
        self, scores: Crop, row: int, column: int, by_row: np.ndarray, by_column: np.ndarray
    ) -> None:
        """In as many threads as torch may use, each with its own labels."""
        maps, total = np.ascontiguousarray(scores.maps.numpy()), self._total.numpy()
        places = *arrays(scores.rows), *arrays(scores.columns)

        def of_labels(first: int, end: int) -> None:
            _add(maps[first:end], *places, by_row, by_column, row, column, total[first:end])

        in_parts(len(maps), of_labels)

    def leaders(self) -> Int16[Tensor, "rows width"]:
        """The label with the highest sum at each pixel."""
        return first_argmax(self._total)


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
