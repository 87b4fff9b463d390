"""Predictions of a table are the latest of each image."""

from pathlib import Path

import pytest
from drawn_generations import table_with_a_change
from drawn_labels import scenes

from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.evaluation.predictions import prediction_tasks


def test_an_image_that_changed_is_judged_by_its_new_rows(tmp_path: Path) -> None:
    drawn = scenes()
    table = table_with_a_change(tmp_path, drawn=drawn)
    dataset = open_labelled(DatasetSettings(dataset=table.uri))
    unit_of = {
        row["image_id"]: row["file_unit"]
        for task in prediction_tasks(table, dataset=dataset)
        for row in task.to_pylist()
    }
    assert unit_of == {f"{scene.name}.jpg": "u" for scene in drawn} | {f"{drawn[0].name}.jpg": "a"}


def test_an_image_that_is_in_error_now_is_named(tmp_path: Path) -> None:
    good = table_with_a_change(tmp_path / "good", drawn=scenes())
    dataset = open_labelled(DatasetSettings(dataset=good.uri))
    table = table_with_a_change(tmp_path / "bad", drawn=scenes(), status="error")
    with pytest.raises(LabelError, match="no good"):
        list(prediction_tasks(table, dataset=dataset))
