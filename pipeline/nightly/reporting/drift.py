"""Measures how far a run's images differ from those of earlier runs.

The measure is the population stability index, the sum of (p - q) ln(p / q) over the labels, or the
bins of a histogram, with shares p now and q before. From 0.1 on the change is small, from 0.25 on
large: rules of thumb, after Lewis, An Introduction to Credit Scoring (1994), and Siddiqi, Credit
Risk Scorecards (2006). They do not hold for small samples, in which the index is large by chance:
without any change its mean is (bins - 1) (1/n + 1/m) (Yurdakul and Naranjo, Statistical properties
of the population stability index, Journal of Risk Model Validation 14 (4), 2020). Where that mean
reaches the first threshold, nothing is judged.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.nightly.reporting.run_aggregates import RunAggregates, shares
from pipeline.nightly.settings import ReportSettings

Level = Literal["unknown", "none", "watch", "alarm"]

_SMALLEST_SHARE = 1e-4
_DECILES = 10
_MOST_CHANGES = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """A label or a range of values, and its share before and now."""

    what: str
    before: float
    now: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The change of one measure against earlier runs."""

    measure: str
    index: float | None
    """Population stability index; None if there is nothing to compare."""
    level: Level
    reason: str
    """Reason of an unknown level; empty otherwise."""
    changes: tuple[Change, ...]
    """Largest contributions to the index first."""


def measure_drift(
    now: RunAggregates,
    before: RunAggregates | None,
    *,
    labels: Sequence[str],
    settings: ReportSettings,
) -> tuple[Drift, ...]:
    """Compares labels by area and by count, mean scores and coverage with earlier runs."""
    if before is None or not before.images:
        return tuple(_unknown(name, "no earlier run to compare with") for name in MEASURES)
    found = [
        _judged(
            "labels_by_area",
            now=now.areas,
            before=before.areas,
            images=(now.images_by_area, before.images_by_area),
            names=labels,
            settings=settings,
        ),
        _judged(
            "labels_by_count",
            now=now.counts,
            before=before.counts,
            images=(now.images_by_count, before.images_by_count),
            names=labels,
            settings=settings,
        ),
    ]
    for name, these, those in (
        ("mean_score", now.mean_scores, before.mean_scores),
        ("coverage", now.coverages, before.coverages),
    ):
        edges = _deciles(those)
        found.append(
            _judged(
                name,
                now=np.add.reduceat(these, edges[:-1]),
                before=np.add.reduceat(those, edges[:-1]),
                images=(float(these.sum()), float(those.sum())),
                names=_ranges(edges, bins=len(those)),
                settings=settings,
            )
        )
    return tuple(found)


MEASURES = ("labels_by_area", "labels_by_count", "mean_score", "coverage")
"""The names of all measures."""


def stability_index(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Returns each bin's part of the population stability index."""
    p = np.maximum(shares(now), _SMALLEST_SHARE)
    q = np.maximum(shares(before), _SMALLEST_SHARE)
    return (p - q) * np.log(p / q)


def _judged(
    measure: str,
    *,
    now: np.ndarray,
    before: np.ndarray,
    images: tuple[float, float],
    names: Sequence[str],
    settings: ReportSettings,
) -> Drift:
    """Judges one measure; `images` is the effective number of images now and before."""
    images_now, images_before = images
    if not images_now or not images_before:
        return _unknown(measure, "no segments to compare")
    parts = stability_index(now, before)
    index = float(parts.sum())
    occurring = int(((now > 0) | (before > 0)).sum())
    by_chance = (occurring - 1) * (1 / images_now + 1 / images_before)
    order = np.argsort(-parts, kind="stable")[:_MOST_CHANGES]
    changes = tuple(
        Change(what=names[i], before=float(shares(before)[i]), now=float(shares(now)[i]))
        for i in order
        if parts[i] > 0
    )
    if by_chance > settings.drift_watch:
        reason = (
            f"too few images to tell ({images_now:,.0f} now, {images_before:,.0f} before): an "
            f"index of {by_chance:.2f} is expected by chance"
        )
        return Drift(measure=measure, index=index, level="unknown", reason=reason, changes=changes)
    level: Level = "none"
    if index >= settings.drift_watch:
        level = "alarm" if index >= settings.drift_alarm else "watch"
    return Drift(measure=measure, index=index, level=level, reason="", changes=changes)


def _unknown(measure: str, reason: str) -> Drift:
    return Drift(measure=measure, index=None, level="unknown", reason=reason, changes=())


def _deciles(histogram: np.ndarray) -> list[int]:
    """Returns bounds between bins so that each range holds a tenth of the images or a bit more."""
    total, edges, held = int(histogram.sum()), [0], 0
    for index, count in enumerate(histogram.tolist()):
        held += count
        if held >= math.ceil(total / _DECILES) and index + 1 < len(histogram):
            edges.append(index + 1)
            held = 0
    return [*edges, len(histogram)]


def _ranges(edges: Sequence[int], *, bins: int) -> list[str]:
    return [f"{start / bins:.2f} to {stop / bins:.2f}" for start, stop in itertools.pairwise(edges)]
