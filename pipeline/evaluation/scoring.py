"""Scoring: rows of segments to sums, in CPU tasks; only sums travel on.

Takes the rows that actors make, or that `predictions.py` reads from a table; gives receipts to the
driver: which images were counted, their sums, and the worst of them with their segments. What is
wrong with an image's data is told in the receipt, and ends the evaluation.
"""

import heapq
import math
import pickle
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.datasets.checking import fitted
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.evaluation.judging import Judge, Metric
from pipeline.labelling.poison import LOST, MISTAKE
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
        ("error", pa.string()),  # what is wrong with an image or its labels
        ("fault", pa.string()),  # what storage did
    ]
)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Judges the images of a block; what Ray Data calls on each."""

    dataset: LabelledImages
    judge: Judge
    num_worst: int
    """How many images are told of."""

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
            if row["kind"] in ("fault", LOST):
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


def merge(total: Metric, other: Metric) -> None:
    """Adds the one to the other of its kind."""
    assert type(total) is type(other)
    total.merge(other)


def badness(worst: dict[str, Any]) -> tuple[float, int]:
    """Orders images from the worst; equal ones by their number, so that runs agree."""
    return worst["score"], worst["index"]
