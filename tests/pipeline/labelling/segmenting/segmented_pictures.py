"""Settings and pictures of the tests of segmenters, and what is compared of their rows."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskformer import MaskFormerImageProcessor, decode_rle
from pipeline.labelling.rows import ROWS
from pipeline.labelling.settings import SegmentSettings

# Random weights are sure of nothing: low thresholds give some segments per image.
PANOPTIC = SegmentSettings(threshold=0.3, overlap_mask_area_threshold=0.1)
INSTANCE = dataclasses.replace(PANOPTIC, task="instance")
SEMANTIC = SegmentSettings(task="semantic")
TASKS = pytest.mark.parametrize(
    "settings", [PANOPTIC, INSTANCE, SEMANTIC], ids=lambda settings: settings.task
)
RULES = pytest.mark.parametrize("rule", ["detectron2", "transformers"])
SIZES = [(36, 48), (50, 40), (36, 48), (64, 64), (41, 59), (40, 59)]
LARGEST = 64 * 96  # pixels of the largest of these pictures at the model's size


def processor_with(rule: Any) -> MaskFormerImageProcessor:
    """Makes the small model's processor with another rule."""
    return MaskFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 160}, resize_rule=rule
    )


def masks(row: dict[str, Any]) -> dict[int, np.ndarray]:
    return {
        segment["segment_id"]: decode_rle(
            segment["rle"], height=row["height"], width=row["width"]
        ).astype(bool)
        for segment in row["segments"]
    }


def id_map(row: dict[str, Any]) -> np.ndarray:
    ids = np.zeros((row["height"], row["width"]), np.int64)
    for segment_id, mask in masks(row).items():
        ids[mask] = segment_id
    return ids


def assert_alike(found: pa.Table, expected: pa.Table) -> None:
    """Compares up to the last bits of the arithmetic: a pixel on a border may go either way."""
    for ours, theirs in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        plain = [*ROWS.names[:9], "status", "error_class", "error_message", "kind"]
        assert {k: ours[k] for k in plain} == {k: theirs[k] for k in plain}
        if ours["status"] != "ok":
            assert ours == theirs
            continue
        assert np.mean(id_map(ours) != id_map(theirs)) < 0.003
        for a, b in zip(ours["segments"], theirs["segments"], strict=True):
            assert (a["segment_id"], a["label"]) == (b["segment_id"], b["label"])
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def scores_apart(table: pa.Table) -> tuple[list[dict[str, Any]], list[float]]:
    """Returns the rows without scores, and the scores."""
    rows, scores = table.to_pylist(), []
    for row in rows:
        for part in [row, *(row["segments"] or ())]:
            taken = [part.pop(name) for name in list(part) if "score" in name]
            scores += [score for score in taken if score is not None]
    return rows, scores
