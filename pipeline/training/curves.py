"""Draws the losses, the learning rate and the validation scores of a run over its steps."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

_WIDTH_INCHES, _HEIGHT_INCHES = 7.2, 3.6
_SCORES_SHOWN = 3
_MOST_MARKERS = 30

Points = Sequence[tuple[float, float]]


def curves(history: Iterable[Mapping[str, Any]]) -> Image.Image:
    """Draws one chart below the other, 720 x 360 pixels each; leaves out charts without points."""
    losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rate: list[tuple[float, float]] = []
    for line in history:
        step = float(line["step"])
        if line["kind"] == "validation":
            for name, value in line.items():
                if name not in ("step", "kind") and value is not None:
                    scores[name].append((step, value))
            continue
        rate.append((step, line["learning_rate"]))
        for name, value in line["losses"].items():
            # Only the last decoder layer: the losses of the others, with a number, look alike.
            if value is not None and not name[-1].isdigit():
                losses[name].append((step, value))
    charts: dict[str, Mapping[str, Points]] = {}
    if losses:
        charts["losses, weighted"] = losses
    if rate:
        charts["learning rate"] = {"rate": rate}
    if scores:
        charts["validation"] = dict(list(scores.items())[:_SCORES_SHOWN])
    return _draw(charts or {"no step was recorded": {}})


def _draw(charts: Mapping[str, Mapping[str, Points]]) -> Image.Image:
    # Imported here, so that only processes that draw load matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(_WIDTH_INCHES, _HEIGHT_INCHES * len(charts)), dpi=100, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(charts), squeeze=False)[:, 0]
    for axes, (title, lines) in zip(rows, charts.items(), strict=True):
        axes.set_title(title, loc="left")
        axes.set_xlabel("step")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        for name, points in lines.items():
            steps, values = zip(*points, strict=True)
            marker = "." if len(points) < _MOST_MARKERS else ""
            axes.plot(steps, values, marker=marker, label=f"{name} {values[-1]:.3g}")
        if lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
