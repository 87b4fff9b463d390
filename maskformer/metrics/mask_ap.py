"""Average precision of instance masks, as COCO's evaluation counts it.

Takes pairs of instance pictures. Masks are compared by pycocotools, image by image; what is kept of
a prediction is its score, its label, and which of ten thresholds it was right at. Masks are gone
when `update` returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped, UInt8

from maskformer.metrics.coco_matching import AREAS, IOU_THRESHOLDS, is_of_size, match
from maskformer.metrics.instances import Instances
from maskformer.metrics.maps import check_same_size
from maskformer.metrics.per_label import mean

RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
"""Of one label in one image; the best scores count."""

_OUTCOMES = (len(AREAS), len(IOU_THRESHOLDS))


class MaskAP:
    """AP and AR over all instances of all images together."""

    def __init__(self, num_labels: int) -> None:
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        self.num_true: Int64[np.ndarray, "labels areas"] = np.zeros(
            (num_labels, len(AREAS)), np.int64
        )
        self._detections: list[_Detections] = []

    def update(
        self, prediction: Mapping[str, Any], target: Mapping[str, Any], *, image_id: int = 0
    ) -> None:
        """Count one image: pictures as `post_process_instance_segmentation` returns them.

        `segmentation` is a map of ids, a stack of masks, or a list of COCO's RLE, in the order of
        `segments_info`; the prediction's and the target's may differ in form. Each predicted
        segment has a `score`. A target's may have `iscrowd`, and an `area`, which then decides
        whether it is small or large.

        Where images share a score, COCO ranks them by their ids. Without an `image_id` the order is
        that of updating and merging.
        """
        predicted = Instances.of(prediction, num_labels=self.num_labels, role="prediction")
        true = Instances.of(target, num_labels=self.num_labels, role="target")
        if predicted.size is not None and true.size is not None:
            check_same_size(predicted.size, true.size)
        for label in np.union1d(predicted.labels, true.labels).tolist():
            truths = true[np.flatnonzero(true.labels == label)]
            self.num_true[label] += (is_of_size(truths.areas) & ~truths.is_crowd).sum(1)
            places = np.flatnonzero(predicted.labels == label)
            order = np.argsort(-predicted.scores[places], kind="stable")[:MAX_DETECTIONS]
            detections = predicted[places[order]]
            outcome = match(detections, truths)
            number = len(detections.rles)
            self._detections.append(
                _Detections(
                    label=np.full(number, label, np.int32),
                    score=detections.scores,
                    rank=np.arange(number, dtype=np.int16),
                    image_id=np.full(number, image_id, np.int64),
                    is_right=_packed(outcome.is_right),
                    is_wrong=_packed(outcome.is_wrong),
                )
            )

    def merge(self, other: "MaskAP") -> "MaskAP":
        """Add the detections of another worker to these; returns this one."""
        if self.num_labels != other.num_labels:
            raise ValueError(
                "metrics of the same num_labels merge, got "
                f"{self.num_labels} and {other.num_labels}"
            )
        self.num_true += other.num_true
        self._detections = [*self._detections, *other._detections]
        return self

    def compute(self) -> dict[str, Any]:
        """`ap` (IoU 0.5 to 0.95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`; the recalls
        `ar1`, `ar10`, `ar100` with so many per image, `ar_small` and so on; `ap_per_label`.

        Labels without a truth (of that size) are left out, where COCO says -1. A data set without
        any gives nan.
        """
        joined = _Detections.joined(self._detections)
        # Stable, as COCO's sort is.
        joined = joined[np.lexsort((joined.image_id, -joined.score))]
        self._detections = [joined]
        precision = np.full((self.num_labels, *_OUTCOMES, len(RECALLS)), np.nan)
        recall = {
            limit: np.full((self.num_labels, *_OUTCOMES), np.nan)
            for limit in (1, 10, MAX_DETECTIONS)
        }
        for label in np.flatnonzero(self.num_true.any(1)).tolist():
            mine = joined[joined.label == label]
            is_right, is_wrong = _unpacked(mine.is_right), _unpacked(mine.is_wrong)
            for area in np.flatnonzero(self.num_true[label]).tolist():
                num_true = int(self.num_true[label, area])
                right, wrong = is_right[:, area], is_wrong[:, area]
                precision[label, area] = _precision(right, wrong, num_true=num_true)
                for limit, values in recall.items():
                    values[label, area] = right[mine.rank < limit].sum(0) / num_true
        ap = precision[:, 0]
        at = {round(float(threshold), 2): place for place, threshold in enumerate(IOU_THRESHOLDS)}
        return {
            "ap": mean(ap.ravel()),
            "ap50": mean(ap[:, at[0.5]].ravel()),
            "ap75": mean(ap[:, at[0.75]].ravel()),
            **{f"ap_{AREAS[i]}": mean(precision[:, i].ravel()) for i in (1, 2, 3)},
            **{f"ar{limit}": mean(values[:, 0].ravel()) for limit, values in recall.items()},
            **{f"ar_{AREAS[i]}": mean(recall[MAX_DETECTIONS][:, i].ravel()) for i in (1, 2, 3)},
            "ap_per_label": [mean(each.ravel()) for each in ap],
        }


@dataclass(frozen=True, kw_only=True)
class _Detections:
    """Holds scores and outcomes of predictions; outcomes are packed bits, by area and threshold."""

    label: Shaped[np.ndarray, " detections"]
    score: Float64[np.ndarray, " detections"]
    rank: Shaped[np.ndarray, " detections"]
    """Within its label and image."""
    image_id: Int64[np.ndarray, " detections"]
    is_right: UInt8[np.ndarray, "detections bytes"]
    is_wrong: UInt8[np.ndarray, "detections bytes"]

    def __getitem__(self, chosen: np.ndarray) -> "_Detections":
        return _Detections(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["_Detections"]) -> "_Detections":
        nothing = _packed(np.zeros((0, *_OUTCOMES), bool))
        empty = cls(
            label=np.zeros(0, np.int32),
            score=np.zeros(0),
            rank=np.zeros(0, np.int16),
            image_id=np.zeros(0, np.int64),
            is_right=nothing,
            is_wrong=nothing,
        )
        return cls(
            **{
                f.name: np.concatenate([getattr(part, f.name) for part in (empty, *parts)])
                for f in fields(cls)
            }
        )


def _packed(flags: Bool[np.ndarray, "detections areas thresholds"]) -> UInt8[np.ndarray, "_ _"]:
    return np.packbits(flags.reshape(len(flags), _OUTCOMES[0] * _OUTCOMES[1]), axis=1)


def _unpacked(bits: UInt8[np.ndarray, "detections bytes"]) -> Bool[np.ndarray, "_ _ _"]:
    flags = np.unpackbits(bits, axis=1, count=_OUTCOMES[0] * _OUTCOMES[1])
    return flags.astype(bool).reshape(len(bits), *_OUTCOMES)


def _precision(
    is_right: Bool[np.ndarray, "detections thresholds"],
    is_wrong: Bool[np.ndarray, "detections thresholds"],
    *,
    num_true: int,
) -> Float64[np.ndarray, "thresholds recalls"]:
    """The highest precision at each recall or beyond it; 0 where it is not reached."""
    right, wrong = is_right.cumsum(0), is_wrong.cumsum(0)
    recall = right / num_true
    # COCO keeps the quotient of nothing by nothing from being one, and so do we, to the last bit.
    precision = right / (wrong + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    result = np.zeros((len(IOU_THRESHOLDS), len(RECALLS)))
    for place in range(len(IOU_THRESHOLDS)):
        reached = np.searchsorted(recall[:, place], RECALLS, side="left")
        is_reached = reached < len(recall)
        result[place, is_reached] = precision[reached[is_reached], place]
    return result
