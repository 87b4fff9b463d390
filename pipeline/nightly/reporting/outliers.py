"""The strangest images of a run: those that are least like the others, and why.

An image is strange by its mean score, if that is low, by its coverage, if that is low or high, and
by its labels, if they are rare in earlier runs. Each is measured in distances from the middle image
to the one beyond which 5 % lie, on the image's side: 1 is as far as one image in twenty, 3 is three
times as far. What counts is the largest of the three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.nightly.reporting.run_data import Measured, Quantiles, RunData

# Where nearly all images agree, what differs by less than this is not strange.
_SHORTEST_DISTANCE = {"mean_score": 0.02, "coverage": 0.02, "surprise": 0.2}


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """An image, how strange it is, and in what."""

    unit_id: str
    image_id: str
    strangeness: float
    """1 is as far from the middle as one image in twenty."""
    reasons: tuple[str, ...]
    """For people, the strongest first; at least one."""


def strangest(night: RunData, *, count: int) -> tuple[Outlier, ...]:
    """So many images, as far as there are, the strangest first."""
    found = [_judged(measured, night.spreads) for measured in night.extremes]
    found.sort(key=lambda each: (-each.strangeness, each.image_id))
    return tuple(found[:count])


def _judged(measured: Measured, spreads: dict[str, Quantiles]) -> Outlier:
    reasons = sorted(_reasons(measured, spreads), key=lambda each: -each[0])
    return Outlier(
        unit_id=measured.unit_id,
        image_id=measured.image_id,
        strangeness=round(max((far for far, _ in reasons), default=0.0), 3),
        reasons=tuple(text for place, (far, text) in enumerate(reasons) if far > 1 or not place),
    )


def _reasons(measured: Measured, spreads: dict[str, Quantiles]) -> Sequence[tuple[float, str]]:
    found = []
    for name, words in _WORDS.items():
        value, spread = getattr(measured, name), spreads.get(name)
        if value is None or spread is None:
            continue
        is_low = value < spread.middle
        text = words[is_low]
        if text is None:
            continue
        end = spread.low if is_low else spread.high
        distance = max(abs(end - spread.middle), _SHORTEST_DISTANCE[name])
        strangeness = abs(value - spread.middle) / distance
        found.append((strangeness, text.format(value=value, spread=spread)))
    return found


_WORDS = {
    # above the middle, below it
    "mean_score": (
        None,
        "the model is unsure: mean score {value:.2f}, of most {spread.low:.2f} and more",
    ),
    "coverage": (
        "segments cover {value:.0%}, of most at most {spread.high:.0%}",
        "segments cover only {value:.0%}, of most {spread.low:.0%} and more",
    ),
    "surprise": (
        "labels that were rare in earlier runs: surprise {value:.1f}, of most {spread.high:.1f} "
        "and less",
        None,
    ),
}
