"""Charts: small drawings in SVG, for both a light and a dark page; what they show is said in words.

Not every mail program draws SVG: each chart repeats numbers that stand in the text beside it.
"""

from collections.abc import Sequence

from pipeline.nightly.reporting.markup import Markup, element

NOW, BEFORE = "#2f80c9", "#9aa0a6"
_HEIGHT, _WIDTH = 64, 320


def columns(values: Sequence[float], *, said: str) -> Markup:
    """A column for each value, the last one in colour."""
    top = max(values, default=0) or 1
    step = _WIDTH / max(8, len(values))
    return _svg(
        [
            _box(
                x=index * step,
                y=_HEIGHT * (1 - value / top),
                width=step - 3,
                height=max(1.0, _HEIGHT * value / top),
                colour=NOW if index == len(values) - 1 else BEFORE,
            )
            for index, value in enumerate(values)
        ],
        height=_HEIGHT,
        width=_WIDTH,
        said=said,
    )


def histograms(now: Sequence[float], before: Sequence[float], *, said: str) -> Markup:
    """Two histograms of the same bins, each as shares of its own: filled, and as a line over it."""
    these, those = _shares(now), _shares(before)
    top = max([*these, *those, 1e-9])
    step = _WIDTH / max(1, len(these))
    bars = [
        _box(
            x=index * step,
            y=_HEIGHT * (1 - share / top),
            width=step,
            height=_HEIGHT * share / top,
            colour=NOW,
        )
        for index, share in enumerate(these)
        if share
    ]
    points = [
        f"{x:.1f},{_HEIGHT * (1 - share / top):.1f}"
        for index, share in enumerate(those)
        for x in (index * step, (index + 1) * step)
    ]
    line = element("polyline", points=" ".join(points), fill="none", stroke=BEFORE, stroke_width=2)
    return _svg([*bars, line if any(those) else None], height=_HEIGHT, width=_WIDTH, said=said)


def pair(now: float, before: float | None, *, most: float, said: str) -> Markup:
    """Two bars, one below the other: the share now, and the share before."""
    bars = [_box(x=0, y=0, width=max(1.0, 120 * now / most), height=6, colour=NOW)]
    if before is not None:
        bars.append(_box(x=0, y=7, width=max(1.0, 120 * before / most), height=4, colour=BEFORE))
    return _svg(bars, height=12, width=120, said=said)


def _svg(content: Sequence[Markup | None], *, height: int, width: int, said: str) -> Markup:
    return element(
        "svg",
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        height=height,
        width=width,
        role="img",
        aria_label=said,
    )


def _box(*, x: float, y: float, width: float, height: float, colour: str) -> Markup:
    return element(
        "rect",
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        width=f"{width:.1f}",
        height=f"{height:.1f}",
        fill=colour,
    )


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values) or 1
    return [value / total for value in values]
