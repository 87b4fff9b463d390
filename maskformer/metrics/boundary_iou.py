"""Boundary IoU (Cheng et al., 2021): how well the outlines of masks agree.

Takes pairs of label maps or of masks. A mask's boundary is those of its pixels that are within a
distance of its contour; the image's own border is part of the contour. Whereas the IoU of large
masks hardly sees their outlines, that of their boundaries sees little else.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Integer
from scipy import ndimage

from maskformer.metrics.maps import LabelPair, check_same_size
from maskformer.metrics.per_label import mean, ratio

DISTANCE = 0.02
"""As published: share of the image's diagonal."""


def boundary_iou(
    prediction: Bool[np.ndarray, "_ _"],
    target: Bool[np.ndarray, "_ _"],
    *,
    distance: float = DISTANCE,
) -> float:
    """The IoU of two masks' boundaries, nan where neither mask has a pixel."""
    check_same_size(prediction.shape, target.shape)
    inner, outer = (
        mask & boundary_of(mask.view(np.uint8), distance=distance) for mask in (prediction, target)
    )
    union = np.count_nonzero(inner | outer)
    return np.count_nonzero(inner & outer) / union if union else float("nan")


def boundary_of(
    labels: Integer[np.ndarray, "height width"], *, distance: float = DISTANCE
) -> Bool[np.ndarray, "height width"]:
    """The pixels of all labels that lie on their label's boundary.

    `distance` is a share of the diagonal, rounded to whole pixels, at least one, and measured to
    the side or upwards, whichever is farther, as the published code does by eroding with a square.
    """
    pixels = max(1, round(distance * math.hypot(*labels.shape)))
    side = 2 * pixels + 1
    # Whatever is beyond the border, it is no label of the map.
    outside = int(labels.max(initial=0)) + 1
    wide = labels.astype(np.int32)
    lowest = highest = wide
    for axis in (0, 1):
        lowest = ndimage.minimum_filter1d(lowest, side, axis, mode="constant", cval=-1)
        highest = ndimage.maximum_filter1d(highest, side, axis, mode="constant", cval=outside)
    return lowest != highest


class BoundaryIoU:
    """The IoU of each label's boundaries, over all images together, and the mean over labels."""

    def __init__(
        self, num_labels: int, ignore_index: int | None = None, *, distance: float = DISTANCE
    ) -> None:
        """Takes the arguments of `MeanIoU`. Ignored pixels are on no boundary, and cut labels."""
        if num_labels < 1 or not 0 < distance < 1:
            raise ValueError(
                "num_labels must be at least 1 and distance a share of the diagonal in (0, 1), got "
                f"{num_labels} and {distance}"
            )
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.distance = distance
        self.intersections: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)
        self.predicted: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)
        self.true: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image's maps of labels, of one size; arrays, tensors or pictures."""
        pair = LabelPair.of(
            prediction, target, num_labels=self.num_labels, ignore_index=self.ignore_index
        )
        # Both maps are cut alike where nothing is known.
        true = pair.true
        predicted = np.where(true == self.num_labels, true, pair.predicted)
        on_predicted = boundary_of(predicted, distance=self.distance)
        on_true = boundary_of(true, distance=self.distance)
        is_hit = on_predicted & on_true & (predicted == true)
        self.intersections += self._count(true[is_hit])
        self.predicted += self._count(predicted[on_predicted])
        self.true += self._count(true[on_true])

    def _count(self, labels: Integer[np.ndarray, " pixels"]) -> Int64[np.ndarray, " labels"]:
        return np.bincount(labels, minlength=self.num_labels + 1)[: self.num_labels]

    def merge(self, other: "BoundaryIoU") -> "BoundaryIoU":
        """Add the counts of another worker to these; returns this one."""
        mine, theirs = (
            (metric.num_labels, metric.ignore_index, metric.distance) for metric in (self, other)
        )
        if mine != theirs:
            raise ValueError(
                "metrics of the same num_labels, ignore_index and distance merge, got "
                f"{mine} and {theirs}"
            )
        self.intersections += other.intersections
        self.predicted += other.predicted
        self.true += other.true
        return self

    def compute(self) -> dict[str, Any]:
        """`boundary_miou` and `boundary_iou_per_label`, nan for labels that no truth has."""
        union = self.true + self.predicted - self.intersections
        iou = ratio(self.intersections, np.where(self.true > 0, union, 0))
        return {"boundary_miou": mean(iou), "boundary_iou_per_label": iou.tolist()}
