"""Predictions of drawn scenes: rows as the main job writes them, a judge, and a small model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from drawn_labels import LABELS, THINGS, Scene
from small_model import small_model

from maskformer import MaskFormerImageProcessor, encode_segments
from pipeline.datasets.target import Labels
from pipeline.evaluation.judging import Judge, Task
from pipeline.labelling.rows import ROWS


def true_rows(drawn: Sequence[Scene], *, task: str = "panoptic") -> pa.Table:
    """Returns the rows of a model that makes no mistake."""
    return predicted_rows([predicted(scene, task=task) for scene in drawn])


def predicted(scene: Scene, *, task: str = "panoptic") -> tuple[np.ndarray, dict[int, int]]:
    """A map of ids, and the label of each."""
    if task != "semantic":
        return scene.ids, dict(scene.label_of)
    labels = set(scene.label_of.values())
    ids = np.where(scene.ids > 0, scene.label_map + 1, 1).astype(np.int32)  # covers the void too
    return ids, {label + 1: label for label in labels}


def predicted_rows(pictures: Sequence[tuple[np.ndarray, dict[int, int]]]) -> pa.Table:
    return pa.Table.from_pylist(
        [_row(index, ids, label_of) for index, (ids, label_of) in enumerate(pictures)], schema=ROWS
    )


def _row(index: int, ids: np.ndarray, label_of: dict[int, int]) -> dict[str, Any]:
    shapes = encode_segments(ids)
    return {
        "image_id": f"scene-{index}",
        "uri": f"scene-{index}.jpg",
        "position": index,
        "height": ids.shape[0],
        "width": ids.shape[1],
        "status": "ok",
        "kind": "image",
        "segments": [
            {"segment_id": key, "label_id": label_of[key], "score": 0.9, "area": area, "rle": rle}
            for key, area, rle in zip(
                shapes.ids.tolist(), shapes.areas.tolist(), shapes.rles, strict=True
            )
        ],
    }


def judge(task: Task) -> Judge:
    """Judges by the labels of the scenes, for a model with the same ones."""
    labels = Labels(names=LABELS, things=frozenset(THINGS))
    return Judge(task=task, labels=labels, data_label_of=tuple(range(len(LABELS))))


def model_folder_of(folder: Path) -> Path:
    """A small model with random weights and the labels of the scenes."""
    size = {"shortest_edge": 64, "longest_edge": 160}
    small_model().save_pretrained(folder)
    MaskFormerImageProcessor(size=size).save_pretrained(folder)
    return folder
