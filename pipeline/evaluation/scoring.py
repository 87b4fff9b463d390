"""Scores rows of segments in CPU tasks, and adds up the scores in the driver.

Takes the rows that actors make, or that `predictions.py` reads from a table. A task returns a
receipt: the images that it counted, their sums, and the worst of them with their segments. An error
in an image's data stands in the receipt, and ends the evaluation.
"""

import heapq
import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.datasets.checking import fitted
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.evaluation.judging import Judge, Metric
from pipeline.labelling.failures.gpu_work import LEFT_ALONE
from pipeline.labelling.failures.poison import LOST, MISTAKE
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES
from pipeline.storage import SourceChanged, StorageFault

WORST = pa.struct(
    [("index", pa.int64()), ("score", pa.float64()), ("segments", ROWS.field("segments").type)]
)

RECEIPT = pa.schema(
    [
        ("indices", pa.list_(pa.int64())),
        ("sums", pa.binary()),  # a metric, pickled
        ("num_segments", pa.int64()),
        ("worst", pa.list_(WORST)),
        ("error", pa.string()),  # in an image or its labels
        ("fault", pa.string()),  # of storage or cluster
    ]
)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores the images of a block; Ray Data calls it on each block."""

    dataset: LabelledImages
    judge: Judge
    num_worst: int
    """Number of worst images in a receipt."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            receipt = self._receipt(rows.to_pylist())
        except LabelError as error:
            receipt = {"error": str(error)}
        except (StorageFault, SourceChanged) as fault:
            receipt = {"fault": f"{type(fault).__name__}: {fault}"}
        return pa.Table.from_pylist([receipt], schema=RECEIPT)

    def _receipt(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        total = self.judge.metric()
        worst: list[dict[str, Any]] = []
        for row in rows:
            if row["kind"] == MISTAKE:
                raise RuntimeError(row["error_message"])
            if row["kind"] in ("fault", LOST, LEFT_ALONE):
                return {"fault": row["error_message"]}
            metric = self._judged(row)
            score = self.judge.score(metric)
            if not math.isnan(score):
                index = row["position"]
                worst.append({"index": index, "score": score, "segments": row["segments"]})
            merge(total, metric)
        return {
            "indices": [row["position"] for row in rows],
            "sums": pickle.dumps(total),
            "num_segments": sum(len(row["segments"]) for row in rows),
            "worst": heapq.nsmallest(self.num_worst, worst, key=badness),
        }

    def _judged(self, row: dict[str, Any]) -> Metric:
        index = row["position"]
        if row["status"] != "ok":
            raise LabelError(
                f"image {row['image_id']}: {row['error_class']}: {row['error_message']}"
            )
        target = fitted(
            self.dataset.target(index),
            size=(row["height"], row["width"]),
            photo=lambda: self.dataset.image(index),
            max_pixels=self.dataset.reading.max_image_pixels,
        )
        try:
            return self.judge.judged(
                row["segments"], target, index=index, whole=row.get(WHOLE_INSTANCES.name)
            )
        except ValueError as error:
            raise LabelError(f"image {row['image_id']}: {error}") from error


@dataclass
class EvaluationSums:
    """The sums over all images so far; grows while receipts come."""

    metric: Metric
    worst: list[dict[str, Any]] = field(default_factory=list)
    """From the worst on: `index`, `score` and predicted `segments`."""
    num_segments: int = 0
    indices: set[int] = field(default_factory=set)
    """Images that were counted."""

    def add(self, receipt: dict[str, Any], *, num_worst: int) -> None:
        """Adds a receipt.

        Raises:
            LabelError: an image or its labels are wrong.
            StorageFault: storage or cluster failed, or the receipt counts an image again.
        """
        if receipt["error"]:
            raise LabelError(receipt["error"])
        if receipt["fault"]:
            raise StorageFault(receipt["fault"])
        indices = set(receipt["indices"])
        if not indices.isdisjoint(self.indices):
            # Sums cannot be taken apart again.
            raise StorageFault("a task ran twice, and its images were counted twice")
        self.indices |= indices
        merge(self.metric, pickle.loads(receipt["sums"]))
        self.num_segments += receipt["num_segments"]
        self.worst = heapq.nsmallest(num_worst, [*self.worst, *receipt["worst"]], key=badness)


def merge(total: Metric, other: Metric) -> None:
    """Adds the sums of `other` to `total`, which is of the same class."""
    assert type(total) is type(other)
    total.merge(other)


def badness(worst: dict[str, Any]) -> tuple[float, int]:
    """Returns the sort key for worst images first; equal scores by index, so that runs agree."""
    return worst["score"], worst["index"]
