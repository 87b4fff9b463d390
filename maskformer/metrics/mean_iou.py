"""Mean intersection over union of label maps, as Detectron2 counts it.

Takes pairs of label maps; keeps one matrix of pixel counts.
"""

from typing import Any

import numpy as np
from jaxtyping import Int64

from maskformer.metrics.maps import LabelPair
from maskformer.metrics.per_label import mean, ratio


class MeanIoU:
    """Measures how well label maps agree, over all pixels of all images together."""

    def __init__(self, num_labels: int, ignore_index: int | None = None) -> None:
        """Pixels whose truth is `ignore_index` do not count, whatever is predicted there.

        Where a prediction is `ignore_index` it has no label: that counts against the truth.
        """
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.confusion: Int64[np.ndarray, "labels labels_and_none"] = np.zeros(
            (num_labels, num_labels + 1), np.int64
        )
        """Pixels by truth and prediction; in the last column those without a predicted label."""

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image's maps of labels, of one size; arrays, tensors or pictures."""
        pair = LabelPair.of(
            prediction, target, num_labels=self.num_labels, ignore_index=self.ignore_index
        )
        width = self.num_labels + 1
        codes = pair.true * width + pair.predicted
        counts = np.bincount(codes.ravel(), minlength=width * width).reshape(width, width)
        self.confusion += counts[:-1]

    def merge(self, other: "MeanIoU") -> "MeanIoU":
        """Add the counts of another worker to these; returns this one."""
        mine, theirs = ((metric.num_labels, metric.ignore_index) for metric in (self, other))
        if mine != theirs:
            raise ValueError(
                f"metrics of the same num_labels and ignore_index merge, got {mine} and {theirs}"
            )
        self.confusion += other.confusion
        return self

    def compute(self) -> dict[str, Any]:
        """`miou`, `macc`, `pacc`, `fwiou`, and `iou_per_label`, `acc_per_label`.

        A label that no truth has is nan in the lists and left out of the means; its predictions
        still count against the labels that they hid. (So does Detectron2 since 2022; before, such
        a label counted as 0 where it was predicted. Published validation sets have every label.)
        """
        hits = np.diagonal(self.confusion)
        true = self.confusion.sum(1)
        union = true + self.confusion[:, :-1].sum(0) - hits
        iou = ratio(hits, np.where(true > 0, union, 0))
        accuracy = ratio(hits, true)
        shares = ratio(true, np.full(self.num_labels, true.sum()))
        return {
            "miou": mean(iou),
            "macc": mean(accuracy),
            # A sum over labels; nan only where there was no truth at all.
            "pacc": float(hits.sum() / true.sum()) if true.any() else float("nan"),
            "fwiou": float(np.nansum(iou * shares)) if true.any() else float("nan"),
            "iou_per_label": iou.tolist(),
            "acc_per_label": accuracy.tolist(),
        }
