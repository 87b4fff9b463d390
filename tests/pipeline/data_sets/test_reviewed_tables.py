"""Of a table with reviews, what people settled is the truth."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest
from corpora import put
from drawn_labels import IGNORED, LABELS, coco_panoptic, scenes, write_table

from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.evaluation.predictions import prediction_tasks
from pipeline.maintenance.compact.reviews import join_reviews
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import Revision
from pipeline.reviews.saving import save
from pipeline.storage import Storage
from pipeline.table.store import TableStore
from pipeline.training.chosen_revisions import ChosenRevisions

STORAGE = Storage()
DRAWN = scenes(5)
NAMES = [f"{scene.name}.jpg" for scene in DRAWN]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> TableStore:
    folder = tmp_path_factory.mktemp("reviewed")
    return TableStore(write_table(folder, DRAWN), STORAGE)


@pytest.fixture
def log(table, tmp_path) -> ReviewLog:
    return ReviewLog.of_table(table.uri, reviews=str(tmp_path / "reviews"), storage=STORAGE)


def accepted(table: TableStore, image_id: str) -> Revision:
    return model_state(table, image_id).revision(
        status="accepted", reviewer="anna", created_at=datetime.now(UTC), tool="test"
    )


def with_cars_called(label: str, revision: Revision) -> Revision:
    segments = tuple(
        dataclasses.replace(each, label=label, label_id=LABELS.index(label), score=None)
        if each.label == "car"
        else each
        for each in revision.segments
    )
    return revision.replace(status="corrected", segments=segments)


def open_with_reviews(table, log, **settings):
    return open_labelled(DatasetSettings(dataset=table.uri, reviews=log.uri, **settings))


@pytest.fixture
def reviewed_log(table, log) -> ReviewLog:
    """The first image accepted, the second corrected, two others not settled, the last not seen."""
    save(log, accepted(table, NAMES[0]))
    save(log, with_cars_called("tree", accepted(table, NAMES[1])))
    save(log, accepted(table, NAMES[2]).replace(status="unusable"))
    save(log, accepted(table, NAMES[3]).replace(status="flagged"))
    return log


def label_maps_by_image(dataset) -> dict[str, np.ndarray]:
    return {
        dataset.image_id(index): dataset.target(index).label_map(ignore_index=IGNORED)
        for index in range(len(dataset))
    }


def drawn_map(number: int, *, cars: str = "car") -> np.ndarray:
    labels = DRAWN[number].label_map
    return np.where(labels == LABELS.index("car"), LABELS.index(cars), labels)


@pytest.mark.parametrize("is_joined", [False, True])
def test_only_settled_images_are_taken_as_they_were_corrected(table, reviewed_log, is_joined):
    if is_joined:
        join_reviews(reviewed_log, target_bytes=2**20)
        STORAGE.delete([reviewed_log.file(name, 1) for name in NAMES[:4]])
    dataset = open_with_reviews(table, reviewed_log)
    maps = label_maps_by_image(dataset)
    assert sorted(maps) == NAMES[:2]
    np.testing.assert_array_equal(maps[NAMES[0]], drawn_map(0))
    np.testing.assert_array_equal(maps[NAMES[1]], drawn_map(1, cars="tree"))
    assert dataset.notes == (
        f"2 of 5 images of {table.uri} are reviewed; reviews left out: 1 flagged, 1 unusable",
    )


def test_first_takes_images_without_a_review_too(table, reviewed_log):
    dataset = open_with_reviews(table, reviewed_log, reviewed="first")
    maps = label_maps_by_image(dataset)
    assert sorted(maps) == [NAMES[0], NAMES[1], NAMES[4]]
    np.testing.assert_array_equal(maps[NAMES[1]], drawn_map(1, cars="tree"))
    np.testing.assert_array_equal(maps[NAMES[4]], drawn_map(4))
    assert "1 are taken as the model labelled them" in dataset.notes[0]


def test_ignore_takes_all_images_as_the_model_labelled_them(table, reviewed_log):
    dataset = open_with_reviews(table, reviewed_log, reviewed="ignore")
    maps = label_maps_by_image(dataset)
    assert sorted(maps) == NAMES
    np.testing.assert_array_equal(maps[NAMES[1]], drawn_map(1))


def test_a_table_without_reviews_is_taken_as_it_is_unless_reviews_are_asked_for(table, log):
    assert len(open_labelled(DatasetSettings(dataset=table.uri))) == 5
    with pytest.raises(LabelError, match="there are no reviews at"):
        open_labelled(DatasetSettings(dataset=table.uri, reviewed="only"))
    with pytest.raises(LabelError, match="there are no reviews at"):
        open_with_reviews(table, log)


def test_where_nothing_is_settled_the_way_out_is_named(table, log):
    save(log, accepted(table, NAMES[2]).replace(status="unusable"))
    with pytest.raises(LabelError, match="--reviewed ignore"):
        open_with_reviews(table, log)


def test_other_data_has_no_use_for_reviews(tmp_path):
    root = put(tmp_path / "coco", coco_panoptic(DRAWN))
    with pytest.raises(ValueError, match="reviewed has no effect on COCO"):
        open_labelled(
            DatasetSettings(
                dataset=f"{root}/annotations/panoptic_val.json", images=f"{root}/val",
                reviewed="only",
            )
        )  # fmt: skip


def test_a_table_is_judged_by_its_reviewed_images(table, reviewed_log):
    dataset = open_with_reviews(table, reviewed_log)
    tasks = list(prediction_tasks(table, dataset=dataset))
    assert sorted(row["image_id"] for task in tasks for row in task.to_pylist()) == NAMES[:2]


def test_a_run_that_resumes_takes_the_revisions_that_it_began_with(table, reviewed_log, tmp_path):
    settings = DatasetSettings(dataset=table.uri, reviews=reviewed_log.uri)
    begun = ChosenRevisions(str(tmp_path / "model"), storage=STORAGE, is_new=True)
    before = label_maps_by_image(begun.open_labelled(settings))
    begun.write()
    save(reviewed_log, accepted(table, NAMES[4]))
    second = reviewed_log.read(NAMES[1], 1).replace(parent_revision=1, status="unusable")
    save(reviewed_log, second)
    assert sorted(label_maps_by_image(open_with_reviews(table, reviewed_log))) == [
        NAMES[0],
        NAMES[4],
    ]
    resumed = ChosenRevisions(str(tmp_path / "model"), storage=STORAGE, is_new=False)
    after = label_maps_by_image(resumed.open_labelled(settings))
    assert after.keys() == before.keys()
    for name, labels in before.items():
        np.testing.assert_array_equal(after[name], labels)
