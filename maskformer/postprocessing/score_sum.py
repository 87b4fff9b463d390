"""Label scores of some rows of an image, summed over several views of it.

Takes what `view.py` gives, before it is resized. Resized scores of all labels are large, and all
that is wanted of each view's is their sum: on a CPU a compiled loop makes one line of one label at
a time and adds it.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from maskformer.bilinear import CPU
from maskformer.cpu.score_loops import add_resampled
from maskformer.postprocessing.geometry import Crop
from maskformer.postprocessing.mask_argmax import first_argmax


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
            add_resampled(
                scores.maps,
                self._total,
                rows=scores.rows,
                columns=scores.columns,
                corner=(row, column),
                row_weights=by_row,
                column_weights=by_column,
            )
            return
        weights = torch.from_numpy(by_row[:, None] * by_column).to(self._total.device)
        part = self._total[:, row : row + height, column : column + width]
        part += scores.resized().mul_(weights)

    def leaders(self) -> Int16[Tensor, "rows width"]:
        """The label with the highest sum at each pixel."""
        return first_argmax(self._total)
