"""Curves: the losses and scores of a run by step, as one picture."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_SIZE = (720, 360)
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 130, 36, 40
_SCORES_SHOWN = 3
_INK, _GRID = (40, 40, 40), (225, 225, 225)
_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14))

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over steps, by name."""

    title: str
    lines: Mapping[str, Points]


def curves(history: Iterable[Mapping[str, Any]]) -> Image.Image:
    """Charts of the losses, the rate and what validation found, side by side."""
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
            # Of the last decoder layer: those of the others, with a number, run beside them.
            if value is not None and not name[-1].isdigit():
                losses[name].append((step, value))
    charts = [
        Chart(title="losses, weighted", lines=losses),
        Chart(title="learning rate", lines={"rate": rate}),
        Chart(title="validation", lines=dict(list(scores.items())[:_SCORES_SHOWN])),
    ]
    drawn = [_draw(chart) for chart in charts if any(chart.lines.values())]
    if not drawn:
        drawn = [_draw(Chart(title="no step was written down", lines={}))]
    picture = Image.new("RGB", (_SIZE[0], _SIZE[1] * len(drawn)), "white")
    for place, chart in enumerate(drawn):
        picture.paste(chart, (0, place * _SIZE[1]))
    return picture


def _draw(chart: Chart) -> Image.Image:
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(size=16), ImageFont.load_default(size=12)
    draw.text((_LEFT, 10), chart.title, _INK, font)
    points = [point for line in chart.lines.values() for point in line]
    if not points:
        return picture
    last = max(step for step, _ in points)
    low, high = _bounds([value for _, value in points])

    def place(step: float, value: float) -> tuple[float, float]:
        return (
            _LEFT + step / max(last, 1) * (_SIZE[0] - _LEFT - _RIGHT),
            _SIZE[1] - _BOTTOM - (value - low) / (high - low) * (_SIZE[1] - _TOP - _BOTTOM),
        )

    for share in range(5):
        value, step = low + share / 4 * (high - low), share / 4 * last
        draw.line([place(0, value), place(last, value)], _GRID)
        draw.text((8, place(0, value)[1] - 7), f"{value:.3g}", _INK, small)
        draw.text((place(step, low)[0] - 8, _SIZE[1] - _BOTTOM + 8), f"{step:.4g}", _INK, small)
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        draw.line([place(*point) for point in line], colour, width=2)
        for point in line if len(line) < 30 else line[-1:]:
            x, y = place(*point)
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], colour)
        label = f"{name} {line[-1][1]:.3g}" if line else name
        draw.text((_SIZE[0] - _RIGHT + 6, _TOP + 18 * number), label, colour, small)
    return picture


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """From 0 up where all are above; the ends differ."""
    low, high = min(0.0, *values), max(values)
    return (low, high) if high > low and math.isfinite(high - low) else (low, low + 1)
