"""A segment table as truth: of each image what it is now."""

from pathlib import Path

import numpy as np
import pytest
from drawn_generations import table_with_a_change
from drawn_labels import IGNORED, scenes

from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError


def test_an_image_that_changed_is_there_once_with_its_new_segments(tmp_path: Path) -> None:
    drawn = scenes()
    table = table_with_a_change(tmp_path, drawn=drawn)
    dataset = open_labelled(DatasetSettings(dataset=table.uri))
    at = {dataset.image_id(index): index for index in range(len(dataset))}
    assert len(dataset) == len(at) == len(drawn)
    first, second = (at[f"{scene.name}.jpg"] for scene in drawn[:2])
    assert dataset.image(first).data == drawn[1].jpeg + b"\0"
    maps = [dataset.target(at).label_map(ignore_index=IGNORED) for at in (first, second)]
    np.testing.assert_array_equal(*maps)


def test_an_image_that_is_in_error_now_is_not_given_as_it_was(tmp_path: Path) -> None:
    drawn = scenes()
    table = table_with_a_change(tmp_path, drawn=drawn, status="error")
    dataset = open_labelled(DatasetSettings(dataset=table.uri))
    ids = [dataset.image_id(index) for index in range(len(dataset))]
    assert sorted(ids) == sorted(f"{scene.name}.jpg" for scene in drawn[1:])


def test_a_photograph_that_changed_after_the_last_run_is_refused_by_name(tmp_path: Path) -> None:
    drawn = scenes()
    table = table_with_a_change(tmp_path, drawn=drawn)
    (tmp_path / "photos" / f"{drawn[0].name}.jpg").write_bytes(drawn[2].jpeg)
    with pytest.raises(LabelError, match=rf"{drawn[0].name}.jpg has changed since"):
        open_labelled(DatasetSettings(dataset=table.uri))
