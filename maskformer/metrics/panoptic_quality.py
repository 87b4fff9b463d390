"""Panoptic quality, as panopticapi counts it.

Takes pairs of panoptic pictures; keeps four counts for each label. A prediction and a truth of one
label match where their intersection is more than half of their union, which no two others can then
do. PQ is the sum of the matches' IoU over the matches and half of what is left on either side; it
is SQ, their mean IoU, times RQ, the share of matches.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from maskformer.metrics.maps import LabelledSegments, check_same_size
from maskformer.metrics.per_label import mean, ratio

# An IoU above one half is a whole multiple of this. Added as whole numbers, the sum is exact, and
# the same in whichever order images and workers come.
_IOU_UNITS = 1 << 53


class PanopticQuality:
    """PQ, SQ and RQ over all segments of all images together."""

    def __init__(self, num_labels: int, things: Collection[int]) -> None:
        """`things` are the labels of things; all others are stuff."""
        outside = sorted(label for label in things if not 0 <= label < num_labels)
        if num_labels < 1 or outside:
            raise ValueError(
                f"num_labels is at least 1 and things are labels below it, got num_labels="
                f"{num_labels} and things {outside[:10]} outside"
            )
        self.num_labels = num_labels
        self.things = frozenset(int(label) for label in things)
        self.true_positives: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)
        self.false_positives: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)
        self.false_negatives: Int64[np.ndarray, " labels"] = np.zeros(num_labels, np.int64)
        self._iou_sums = np.zeros(num_labels, object)

    def update(self, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one image: two pictures as `post_process_panoptic_segmentation` returns them.

        Void, 0 in the maps, is not predicted, or not known: a prediction's pixels on the truth's
        void do not count to its union, and one that lies there by more than half is no false
        positive. Neither is it where void and a crowd of its label (`iscrowd` in the truth's
        segments_info) together hold more than half of it; a crowd matches nothing and nothing
        misses it. Of several crowds of one label the last in segments_info is looked at, as
        panopticapi does.
        """
        predicted = LabelledSegments.of(prediction, num_labels=self.num_labels, role="prediction")
        true = LabelledSegments.of(target, num_labels=self.num_labels, role="target")
        check_same_size(predicted.places.shape, true.places.shape)
        shared = _shared_areas(predicted, true)
        iou = _iou(shared, predicted, true)
        is_match = iou > 0.5
        matched_true, matched_predicted = is_match.nonzero()
        labels = true.labels[matched_true]
        for label, value in zip(labels.tolist(), iou[is_match].tolist(), strict=True):
            self._iou_sums[label] += int(value * _IOU_UNITS)
        is_missed = ~is_match.any(1) & ~true.is_crowd
        is_wrong = ~is_match.any(0) & ~_is_excused(shared, predicted, true)
        assert len(np.unique(matched_predicted)) == len(matched_true)
        self.true_positives += self._count(labels)
        self.false_negatives += self._count(true.labels[is_missed])
        self.false_positives += self._count(predicted.labels[is_wrong])

    def _count(self, labels: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " labels"]:
        return np.bincount(labels, minlength=self.num_labels)

    def merge(self, other: "PanopticQuality") -> "PanopticQuality":
        """Add the counts of another worker to these; returns this one."""
        if (self.num_labels, self.things) != (other.num_labels, other.things):
            raise ValueError(
                f"metrics of the same labels and things merge, got {self.num_labels} and "
                f"{other.num_labels} labels, things that differ: "
                f"{sorted(self.things ^ other.things)[:10]}"
            )
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives
        self._iou_sums += other._iou_sums
        return self

    def compute(self) -> dict[str, Any]:
        """`pq`, `sq`, `rq`; the same of `_things` and `_stuff`; and lists `pq_per_label` and so on.

        A truth against itself has a `pq` of 1. A label without any segment, true or predicted, is
        nan in the lists and left out of the means; one without a match has an SQ of 0.
        """
        matches = self.true_positives.astype(np.float64)
        halves = matches + (self.false_positives + self.false_negatives) / 2
        iou_sums = np.array([total / _IOU_UNITS for total in self._iou_sums.tolist()])
        per_label = {
            "pq": ratio(iou_sums, halves),
            "sq": np.where(halves > 0, iou_sums / np.maximum(matches, 1), np.nan),
            "rq": ratio(matches, halves),
        }
        is_thing = np.isin(np.arange(self.num_labels), sorted(self.things))
        groups = {"": np.ones_like(is_thing), "_things": is_thing, "_stuff": ~is_thing}
        means = {
            name + group: mean(values[chosen])
            for group, chosen in groups.items()
            for name, values in per_label.items()
        }
        lists = {f"{name}_per_label": values.tolist() for name, values in per_label.items()}
        return {
            **means,
            **lists,
            "true_positives_per_label": self.true_positives.tolist(),
            "false_positives_per_label": self.false_positives.tolist(),
            "false_negatives_per_label": self.false_negatives.tolist(),
        }


def _shared_areas(
    predicted: LabelledSegments, true: LabelledSegments
) -> Int64[np.ndarray, "true_and_void predicted_and_void"]:
    """The pixels of each pair of segments; void stands first on both sides."""
    shape = len(true.labels) + 1, len(predicted.labels) + 1
    pairs = true.places.astype(np.intp) * shape[1] + predicted.places
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _iou(
    shared: Int64[np.ndarray, "true_and_void predicted_and_void"],
    predicted: LabelledSegments,
    true: LabelledSegments,
) -> Float64[np.ndarray, "true predicted"]:
    """The IoU of each pair of one label, without the truth's void; 0 where two cannot match."""
    intersection = shared[1:, 1:]
    known_areas = predicted.areas - shared[0, 1:]
    union = true.areas[:, None] + known_areas - intersection
    can_match = (true.labels[:, None] == predicted.labels) & ~true.is_crowd[:, None]
    return np.where(can_match, intersection / union, 0.0)


def _is_excused(
    shared: Int64[np.ndarray, "true_and_void predicted_and_void"],
    predicted: LabelledSegments,
    true: LabelledSegments,
) -> Bool[np.ndarray, " predicted"]:
    """Tells whether more than half of a prediction lies on void and on the crowd of its label."""
    crowd_of_label = {
        label: place
        for place, (label, is_crowd) in enumerate(
            zip(true.labels.tolist(), true.is_crowd.tolist(), strict=True), start=1
        )
        if is_crowd
    }
    excused = shared[0, 1:].copy()
    for place, label in enumerate(predicted.labels.tolist()):
        if label in crowd_of_label:
            excused[place] += shared[crowd_of_label[label], place + 1]
    return excused / predicted.areas > 0.5
