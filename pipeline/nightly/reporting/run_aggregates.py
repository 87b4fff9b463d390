"""Sums over the labelled images of a run, small enough to be stored and added up.

`run_data.py` computes them, `report.json` stores them, `drift.py` compares them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 50
"""Number of bins of the histograms over [0, 1] in `report.json`."""


@dataclass(frozen=True, kw_only=True)
class RunAggregates:
    """Sums over labelled images; arrays are indexed by label_id, histograms span [0, 1]."""

    images: int
    """Without those in error."""
    areas: np.ndarray
    """Pixels by label."""
    counts: np.ndarray
    """Segments by label."""
    scores: np.ndarray
    """Sum of the segments' scores by label."""
    mean_scores: np.ndarray
    """Histogram of the images' mean scores, without images that have no segments."""
    coverages: np.ndarray
    """Histogram of the images' shares of pixels in a segment."""
    mean_score_sum: float
    coverage_sum: float
    squared_areas: float
    """Sum over images of the square of their pixels in segments."""
    squared_counts: float
    """Sum over images of the square of their segments."""

    def __add__(self, other: "RunAggregates") -> "RunAggregates":
        return RunAggregates(
            **{name: getattr(self, name) + getattr(other, name) for name in _FIELDS}
        )

    @property
    def mean_score(self) -> float | None:
        """Returns the mean of the images' mean scores; None if no image has segments."""
        return _ratio(self.mean_score_sum, int(self.mean_scores.sum()))

    @property
    def coverage(self) -> float | None:
        return _ratio(self.coverage_sum, self.images)

    @property
    def images_by_area(self) -> float:
        """Returns the effective sample size for shares of area (Kish)."""
        return _kish(float(self.areas.sum()), self.squared_areas)

    @property
    def images_by_count(self) -> float:
        """Returns the effective sample size for shares of segments (Kish).

        One image with a hundred books says less about the corpus than a hundred images.
        """
        return _kish(float(self.counts.sum()), self.squared_counts)

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the fields of `report.json`."""
        area, count = max(1, int(self.areas.sum())), max(1, int(self.counts.sum()))
        return {
            "images_labelled": self.images,
            "mean_score": _rounded(self.mean_score),
            "coverage": _rounded(self.coverage),
            "labels": [
                {
                    "label_id": label_id,
                    "label": name,
                    "area": int(self.areas[label_id]),
                    "segments": int(self.counts[label_id]),
                    "area_share": round(float(self.areas[label_id]) / area, 6),
                    "segments_share": round(float(self.counts[label_id]) / count, 6),
                    "mean_score": _rounded(
                        _ratio(float(self.scores[label_id]), int(self.counts[label_id]))
                    ),
                }
                for label_id, name in enumerate(labels)
            ],
            "mean_score_histogram": self.mean_scores.tolist(),
            "coverage_histogram": self.coverages.tolist(),
            "mean_score_sum": round(self.mean_score_sum, 4),
            "coverage_sum": round(self.coverage_sum, 4),
            "squared_areas": self.squared_areas,
            "squared_counts": self.squared_counts,
        }

    @classmethod
    def from_dict(
        cls, fields: Mapping[str, Any], *, labels: Sequence[str]
    ) -> "RunAggregates | None":
        """Reads the fields of `to_dict`; None for a report of another kind or of other labels."""
        rows = fields.get("labels")
        if not isinstance(rows, list) or [row.get("label") for row in rows] != list(labels):
            return None
        return cls(
            images=fields["images_labelled"],
            areas=np.array([row["area"] for row in rows], np.int64),
            counts=np.array([row["segments"] for row in rows], np.int64),
            scores=np.array([(row["mean_score"] or 0) * row["segments"] for row in rows]),
            mean_scores=np.array(fields["mean_score_histogram"], np.int64),
            coverages=np.array(fields["coverage_histogram"], np.int64),
            mean_score_sum=fields["mean_score_sum"],
            coverage_sum=fields["coverage_sum"],
            squared_areas=fields["squared_areas"],
            squared_counts=fields["squared_counts"],
        )


_FIELDS = tuple(RunAggregates.__dataclass_fields__)


def shares(sums: np.ndarray) -> np.ndarray:
    """Divides by the total; zeros if the total is 0."""
    return sums / max(1, sums.sum())


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _kish(total: float, squares: float) -> float:
    return total * total / squares if squares else 0.0
