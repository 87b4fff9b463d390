"""Defines how unusual an image is among those of a table, or of one run.

An image is unusual if its mean score is low, its coverage is low or high, or its labels are rare.
Its strangeness is the largest distance of these three values to the median, as a multiple of the
distance from the median to the 5 % or 95 % quantile on the same side: at 1, one image in twenty is
as far out or farther.

`select` computes it in a database on disk, the review page in memory, for all images of a table;
`nightly/reporting/outliers.py` for one run, with labels that are rare in earlier runs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALLEST_SHARE = 1e-4
"""A label counts as no rarer than this share of all segmented pixels."""
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A value of an image that may be unusual."""

    shortest_distance: float
    """Where nearly all images agree, smaller differences than this are not unusual."""
    above: bool
    """True if a value above the median may be unusual."""
    below: bool


MEASURES = {
    "mean_score": Measure(shortest_distance=0.02, above=False, below=True),
    "coverage": Measure(shortest_distance=0.02, above=True, below=True),
    "surprise": Measure(shortest_distance=0.2, above=True, below=False),
}
"""By the names of columns; `surprise` is the mean of -ln of their label's share over the segmented
pixels of an image."""

Values = npt.NDArray[np.float32]


def strangeness(*, mean_score: Values, coverage: Values, surprise: Values) -> Values:
    """Returns the strangeness of each image, 0 or more; nan where it has no value at all."""
    columns = {"mean_score": mean_score, "coverage": coverage, "surprise": surprise}
    found = [_distances(columns[name], measure) for name, measure in MEASURES.items()]
    return np.fmax.reduce(found)


def distance_sql(name: str, *, above: bool) -> str:
    """Returns the distance of a measure on one side of its median, as SQL.

    `m` is a row with the measures; `q` has a list of the `QUANTILES` of each, under its name.
    """
    measure = MEASURES[name]
    assert measure.above if above else measure.below
    value, median, low, high = (f"m.{name}", *(f"q.{name}[{n}]" for n in (2, 1, 3)))
    if above:
        difference, reach = f"{value} - {median}", f"{high} - {median}"
    else:
        difference, reach = f"{median} - {value}", f"{median} - {low}"
    return f"({difference}) / greatest({reach}, {measure.shortest_distance})"


def surprises(
    images: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    areas: npt.NDArray[np.int64],
    *,
    num_images: int,
    num_labels: int,
) -> Values:
    """Returns the mean over each image's segmented pixels of -ln of their label's share.

    Args:
        images, labels, areas: of each segment.
    """
    by_label = np.bincount(labels, areas, num_labels)
    shares = by_label / max(1.0, by_label.sum())
    of_label = -np.log(np.maximum(shares, SMALLEST_SHARE))
    pixels = np.bincount(images, areas, num_images)
    weighted = np.bincount(images, areas * of_label[labels], num_images)
    result = np.full(num_images, np.nan)
    np.divide(weighted, pixels, out=result, where=pixels > 0)
    return result.astype(np.float32)


def _distances(values: Values, measure: Measure) -> Values:
    present = values[~np.isnan(values)]
    if not len(present):
        return np.full(len(values), np.nan, np.float32)
    low, median, high = np.quantile(present, QUANTILES)
    shortest = measure.shortest_distance
    result = np.where(
        values < median,
        (median - values) / max(median - low, shortest) * measure.below,
        (values - median) / max(high - median, shortest) * measure.above,
    )
    return result.astype(np.float32)
