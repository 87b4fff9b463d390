"""Draws the confusion matrix: which labels the model takes for which."""

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image

_DPI = 100
_EMPTY_ROW, _GRID = (235 / 255,) * 3, "0.84"
_TITLE = "true label (row) by predicted label (column), % of the true label's pixels"
_LONGEST_NAME, _MOST_NAMES = 28, 220


def confusion_picture(
    confusion: Integer[np.ndarray, "labels labels_and_none"],
    *,
    names: Sequence[str],
    iou: Sequence[float],
) -> Image.Image:
    """Draws a row for each true label: the shares of its pixels by predicted label, and its IoU.

    The last column, "none", is left out where every pixel has a predicted label. Of more than 220
    labels only some have their names beside the matrix, at equal distances.
    """
    # Imported here, so that only processes that draw load matplotlib.
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    cell = max(6, min(44, 1400 // len(names)))
    font_size = max(6, min(14, cell - 1)) * 72 / _DPI
    rows = [_short(name) for name in names]
    columns = [*rows, "none"] if confusion[:, -1].any() else rows
    shares = _shares(confusion)[:, : len(columns)]
    size = (len(columns) * cell / _DPI, len(rows) * cell / _DPI)
    figure = Figure(figsize=size, dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(
        shares,
        cmap=colormaps["Blues"].with_extremes(bad=_EMPTY_ROW),
        # The square root makes small confusions visible.
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_title(_TITLE, loc="left", fontsize=12)
    axes.xaxis.tick_top()
    # matplotlib takes a second to draw some 40 names.
    step = math.ceil(len(names) / _MOST_NAMES)
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=90, fontsize=font_size)
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=font_size)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    if cell >= 16:
        for edges, draw in ((len(columns), axes.axvline), (len(rows), axes.axhline)):
            for edge in range(1, edges):
                draw(edge - 0.5, color=_GRID, linewidth=0.72)
    if cell >= 12:
        right = len(columns) - 0.25
        axes.text(right, -1, "IoU", fontsize=font_size, va="center")
        for row, value in enumerate(iou):
            if not np.isnan(value):
                axes.text(right, row, f"{100 * value:.1f}", fontsize=font_size, va="center")
    if cell >= 24:
        for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
            share = shares[row, column]
            colour = "white" if share > 0.3 else "0.16"
            axes.text(
                column, row, f"{100 * share:.0f}",
                color=colour, fontsize=font_size, ha="center", va="center",
            )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.16)
    return Image.open(buffer).convert("RGB")


def _shares(
    confusion: Integer[np.ndarray, "labels columns"],
) -> Float[np.ndarray, "labels columns"]:
    """Divides each row by its sum; nan where that is 0."""
    with np.errstate(invalid="ignore"):
        return confusion / confusion.sum(1, keepdims=True)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
