"""Compares an image's segments with its target, and adds the result to a metric.

Segments are rows of a segment table, so that tables and actors are judged alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from maskformer import MeanIoU, PanopticQuality, decode_rle, encode_segments
from pipeline.datasets.target import Labels, Target
from pipeline.evaluation.instance_ap import InstanceAP
from pipeline.evaluation.matching import UNMATCHED

Task = Literal["semantic", "panoptic", "instance"]
Metric: TypeAlias = MeanIoU | PanopticQuality | InstanceAP
Row: TypeAlias = Mapping[str, Any]

SCORES: Mapping[str, str] = {"semantic": "miou", "panoptic": "pq", "instance": "ap"}
"""The name of each task's main number."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The task and the labels by which predictions are compared with the truth."""

    task: Task
    labels: Labels
    """Labels of the data."""
    data_label_of: tuple[int, ...]
    """The data's label id for each label of the model, or `UNMATCHED`."""

    def metric(self) -> Metric:
        """Returns a new metric without images."""
        count = len(self.labels.names)
        if self.task == "semantic":
            return MeanIoU(count, ignore_index=count)
        if self.task == "panoptic":
            return PanopticQuality(count, things=self.labels.things)
        return InstanceAP(count)

    def judged(
        self,
        segments: Sequence[Row],
        target: Target,
        *,
        index: int,
        whole: Sequence[Row] | None = None,
    ) -> Metric:
        """Returns the metric of one image.

        Args:
            segments: rows of a segment table.
            index: the image's number in the data set, which ranks equal scores.
            whole: its best instances with whole masks; None if there are only rows.
        """
        metric = self.metric()
        segments = [row for row in segments if self.data_label_of[row["label_id"]] != UNMATCHED]
        if isinstance(metric, MeanIoU):
            void = len(self.labels.names)
            metric.update(self._label_map(segments, target), target.label_map(ignore_index=void))
        elif isinstance(metric, PanopticQuality):
            metric.update(self._id_map(segments, target), _id_map(target))
        else:
            numbered = (
                None
                if whole is None
                else [{**row, "segment_id": number} for number, row in enumerate(whole, start=1)]
            )
            metric.update(
                self._masks(segments, target),
                None if numbered is None else self._masks(numbered, target),
                self._true_masks(target),
                image_id=index,
            )
        return metric

    def score(self, metric: Metric) -> float:
        """Returns the metric's main number; nan if there was nothing to measure."""
        return float(metric.compute()[SCORES[self.task]])

    def _label_map(self, segments: Sequence[Row], target: Target) -> np.ndarray:
        void = len(self.labels.names)
        labels = np.full(target.size, void, np.min_scalar_type(void))
        for row in segments:
            labels[_mask(row, target)] = self.data_label_of[row["label_id"]]
        return labels

    def _id_map(self, segments: Sequence[Row], target: Target) -> dict[str, Any]:
        ids = np.zeros(target.size, np.int32)
        for row in segments:
            ids[_mask(row, target)] = row["segment_id"]
        return {"segmentation": ids, "segments_info": [self._info(row) for row in segments]}

    def _masks(self, segments: Sequence[Row], target: Target) -> dict[str, Any]:
        things = [row for row in segments if self._is_judged(self.data_label_of[row["label_id"]])]
        return {
            "segmentation": [_coco(row["rle"], target) for row in things],
            "segments_info": [self._info(row) for row in things],
        }

    def _true_masks(self, target: Target) -> dict[str, Any]:
        shown: dict[int, str] = {}
        if not all(segment.rle for segment in target.segments):
            shapes = encode_segments(target.ids)
            shown = dict(zip(shapes.ids.tolist(), shapes.rles, strict=True))
        things = [
            segment
            for segment in target.segments
            if self._is_judged(segment.label_id) and (segment.rle or segment.id in shown)
        ]
        return {
            "segmentation": [_coco(segment.rle or shown[segment.id], target) for segment in things],
            "segments_info": [
                {
                    "id": segment.id,
                    "label_id": segment.label_id,
                    "iscrowd": segment.is_crowd,
                    **({} if segment.area is None else {"area": segment.area}),
                }
                for segment in things
            ],
        }

    def _is_judged(self, label_id: int) -> bool:
        """Returns whether a label's instances count: things do, if the data knows things."""
        return not self.labels.things or label_id in self.labels.things

    def _info(self, row: Row) -> dict[str, Any]:
        return {
            "id": row["segment_id"],
            "label_id": self.data_label_of[row["label_id"]],
            "score": row["score"],
        }


def _mask(row: Row, target: Target) -> np.ndarray:
    return decode_rle(row["rle"], height=target.size[0], width=target.size[1])


def _coco(rle: str, target: Target) -> dict[str, Any]:
    return {"size": list(target.size), "counts": rle.encode("ascii")}


def _id_map(target: Target) -> dict[str, Any]:
    """Returns the target in the metric's form, without segments that others hide."""
    shown = set(np.unique(target.ids).tolist())
    return {
        "segmentation": target.ids,
        "segments_info": [
            {"id": segment.id, "label_id": segment.label_id, "iscrowd": segment.is_crowd}
            for segment in target.segments
            if segment.id in shown
        ],
    }
