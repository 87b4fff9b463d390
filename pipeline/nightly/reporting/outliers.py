"""Finds the most unusual images of a run, and says why they are.

Its outlier score is the strangeness of `table/strangeness.py` among the images of the run, with
labels that are rare in earlier runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.nightly.reporting.run_data import Measured, Quantiles, RunData
from pipeline.table.strangeness import MEASURES


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """An image, its outlier score, and the reasons for it."""

    unit_id: str
    image_id: str
    score: float
    """1 is as far from the median as the 5 % or 95 % quantile."""
    reasons: tuple[str, ...]
    """Sentences for people, the strongest reason first; at least one."""


def find_outliers(run: RunData, *, count: int) -> tuple[Outlier, ...]:
    """Returns up to `count` images, the most unusual first; equals in the order of their names."""
    found = [_judge(measured, run.quantiles) for measured in run.extremes]
    found.sort(key=lambda each: (-each.score, each.image_id))
    return tuple(found[:count])


def _judge(measured: Measured, quantiles: dict[str, Quantiles]) -> Outlier:
    reasons = sorted(_reasons(measured, quantiles), key=lambda each: -each[0])
    return Outlier(
        unit_id=measured.unit_id,
        image_id=measured.image_id,
        score=round(max((score for score, _ in reasons), default=0.0), 3),
        reasons=tuple(
            text for place, (score, text) in enumerate(reasons) if score > 1 or not place
        ),
    )


def _reasons(measured: Measured, quantiles: dict[str, Quantiles]) -> Iterator[tuple[float, str]]:
    """Yields an outlier score and its sentence for each value."""
    for name, (above, below) in _SENTENCES.items():
        value, quantile = getattr(measured, name), quantiles.get(name)
        if value is None or quantile is None:
            continue
        is_low = value < quantile.median
        text, end = (below, quantile.low) if is_low else (above, quantile.high)
        if text is not None:
            distance = max(abs(end - quantile.median), MEASURES[name].shortest_distance)
            score = abs(value - quantile.median) / distance
            if score <= 1:
                text = _USUAL[name]
            yield score, text.format(value=value, quantile=quantile)


_SENTENCES = {
    # above the median, below it
    "mean_score": (
        None,
        "the model is unsure: mean score {value:.2f}; 95% of images have at least "
        "{quantile.low:.2f}",
    ),
    "coverage": (
        "segments cover {value:.1%} of the image; 95% of images have at most {quantile.high:.1%}",
        "segments cover only {value:.1%} of the image; 95% of images have at least "
        "{quantile.low:.1%}",
    ),
    "surprise": (
        "labels that were rare in earlier runs: surprise {value:.1f}; 95% of images have at "
        "most {quantile.high:.1f}",
        None,
    ),
}  # fmt: skip
_USUAL = {
    "mean_score": "within the usual range: mean score {value:.2f}, median {quantile.median:.2f}",
    "coverage": "within the usual range: coverage {value:.1%}, median {quantile.median:.1%}",
    "surprise": "within the usual range: surprise {value:.1f}, median {quantile.median:.1f}",
}
