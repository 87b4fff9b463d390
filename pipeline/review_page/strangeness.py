"""Measures how unusual each image of a table is: the nightly report's outlier score.

An image is unusual if its mean score is low, its coverage is low or high, or its labels are rare in
the table. Its strangeness is the largest distance of these three values to the table's median, as a
multiple of the distance from the median to the 5 % or 95 % quantile on the same side: at 1, one
image in twenty is as far out or farther. `nightly/reporting/outliers.py` says the same of the
images of one run, with labels that are rare in earlier runs.
"""

import numpy as np
import numpy.typing as npt

_SMALLEST_SHARE = 1e-4
# Where nearly all images agree, smaller differences than these are not unusual.
_SHORTEST_DISTANCE = {"mean_score": 0.02, "coverage": 0.02, "surprise": 0.2}

Values = npt.NDArray[np.float32]


def strangeness(*, mean_score: Values, coverage: Values, surprise: Values) -> Values:
    """Returns the outlier score of each image, 0 or more; nan where it has no value at all."""
    found = [
        _distance(mean_score, shortest=_SHORTEST_DISTANCE["mean_score"], above=False),
        _distance(coverage, shortest=_SHORTEST_DISTANCE["coverage"]),
        _distance(surprise, shortest=_SHORTEST_DISTANCE["surprise"], below=False),
    ]
    return np.fmax.reduce(found)


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
    of_label = -np.log(np.maximum(shares, _SMALLEST_SHARE))
    pixels = np.bincount(images, areas, num_images)
    weighted = np.bincount(images, areas * of_label[labels], num_images)
    result = np.full(num_images, np.nan)
    np.divide(weighted, pixels, out=result, where=pixels > 0)
    return result.astype(np.float32)


def _distance(values: Values, *, shortest: float, above: bool = True, below: bool = True) -> Values:
    present = values[~np.isnan(values)]
    if not len(present):
        return np.full(len(values), np.nan, np.float32)
    low, median, high = np.quantile(present, [0.05, 0.5, 0.95])
    result = np.where(
        values < median,
        (median - values) / max(median - low, shortest) * below,
        (values - median) / max(high - median, shortest) * above,
    )
    return result.astype(np.float32)
