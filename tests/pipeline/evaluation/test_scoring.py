"""Rows beside truth become sums that add, and wrong data is told, never counted."""

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_labels import LABELS, THINGS, scenes
from predicted import judge, predicted, predicted_rows, true_rows

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import Labels
from pipeline.evaluation.judging import SCORES, Judge
from pipeline.evaluation.scoring import Scorer, merge
from pipeline.labelling.rows import ROWS

TASKS = ("semantic", "panoptic", "instance")


def score_receipt(rows: pa.Table, dataset: LabelledImages, by: Judge) -> dict[str, Any]:
    [found] = Scorer(dataset=dataset, judge=by, num_worst=2)(rows).to_pylist()
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_itself_scores_one(dataset: LabelledImages, task: str) -> None:
    found = score_receipt(true_rows(scenes(6), task=task), dataset, judge(task))
    metric = pickle.loads(found["sums"])
    assert judge(task).score(metric) == 1.0
    assert found["indices"] == [*range(6)]
    assert found["error"] is None


@pytest.mark.parametrize("task", TASKS)
def test_blocks_merged_equal_the_whole_and_name_the_worst(
    dataset: LabelledImages, task: str
) -> None:
    # Each image is given the segments of the next one, but the last its own.
    drawn = scenes(6)
    rows = predicted_rows([predicted(scene, task=task) for scene in [*drawn[1:6], drawn[5]]])
    whole = score_receipt(rows, dataset, judge(task))
    parts = [score_receipt(rows.slice(start, 2), dataset, judge(task)) for start in (4, 0, 2)]
    total = judge(task).metric()
    for part in parts:
        merge(total, pickle.loads(part["sums"]))
    assert str(total.compute()) == str(pickle.loads(whole["sums"]).compute())
    score = total.compute()[SCORES[task]]
    assert 0 < score < 1
    alone = [
        score_receipt(rows.slice(index, 1), dataset, judge(task))["worst"][0] for index in range(6)
    ]
    expected = sorted(alone, key=lambda worst: (worst["score"], worst["index"]))[:2]
    assert whole["worst"] == expected
    assert whole["worst"][0]["segments"] == rows["segments"][expected[0]["index"]].as_py()


def test_labels_in_another_order_are_the_same_labels(dataset: LabelledImages) -> None:
    turned = Judge(
        task="panoptic",
        labels=Labels(names=LABELS, things=frozenset(THINGS)),
        data_label_of=(3, 2, 1, 0),
    )
    pictures = [
        (ids, {key: 3 - label for key, label in label_of.items()})
        for ids, label_of in map(predicted, scenes(6))
    ]
    found = score_receipt(predicted_rows(pictures), dataset, turned)
    assert turned.score(pickle.loads(found["sums"])) == 1.0
    wrong = score_receipt(predicted_rows(pictures), dataset, judge("panoptic"))
    assert judge("panoptic").score(pickle.loads(wrong["sums"])) < 0.5


def test_a_label_that_is_not_predicted_counts_against_the_truth(dataset: LabelledImages) -> None:
    pictures = [(np.zeros_like(scene.ids), {}) for scene in scenes(6)]
    found = score_receipt(predicted_rows(pictures), dataset, judge("semantic"))
    assert pickle.loads(found["sums"]).compute()["miou"] == 0.0


def test_an_image_of_another_size_ends_it(dataset: LabelledImages) -> None:
    drawn = scenes(2)
    ids, label_of = predicted(drawn[1])
    rows = predicted_rows([predicted(drawn[0]), (ids[:, 1:], label_of)])
    found = score_receipt(rows, dataset, judge("panoptic"))
    assert found["sums"] is None
    for piece in ("scene-1:", "36 x 47", "36 x 48", "scene-1.jpg"):
        assert piece in found["error"]


def test_an_image_in_error_ends_it(dataset: LabelledImages) -> None:
    [row] = true_rows(scenes(1)).to_pylist()
    row |= {"status": "error", "error_class": "TruncatedImage", "error_message": "a.jpg: it ends"}
    rows = pa.Table.from_pylist([row], schema=ROWS)
    found = score_receipt(rows, dataset, judge("panoptic"))
    assert found["error"] == "image scene-0: TruncatedImage: a.jpg: it ends"


def test_a_fault_of_storage_is_no_error(dataset: LabelledImages) -> None:
    row = {"kind": "fault", "error_message": "StorageFault: away"}
    rows = pa.Table.from_pylist([row], schema=ROWS)
    found = score_receipt(rows, dataset, judge("panoptic"))
    assert (found["error"], found["fault"]) == (None, "StorageFault: away")
