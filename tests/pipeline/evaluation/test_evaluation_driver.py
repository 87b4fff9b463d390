"""The sums are the same on one actor and on two, and from a table."""

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from corpora import put
from drawn_labels import panoptic_shards, scenes
from labelled_by_hand import label_by_hand
from predicted import judge, model_folder_of
from ray_here import ray_here

from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError, Labels
from pipeline.evaluation.driver import (
    EvaluationJob,
    Segmenting,
    evaluate_model,
    evaluate_rows,
)
from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.evaluation.predictions import prediction_tasks
from pipeline.evaluation.scoring import EvaluationSums
from pipeline.labelling.model import ModelFolder, read_model, table_spec
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import UnitSettings, plan_corpus
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.storage import Storage, StorageFault
from pipeline.table.store import TableStore

SEGMENTING = SegmentSettings(
    threshold=0.3, overlap_mask_area_threshold=0.1, label_ids_to_fuse=(0, 1)
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two cores without GPUs, on this machine."""
    with ray_here(__name__):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder = model_folder_of(tmp_path_factory.mktemp("model"))
    return read_model(str(folder), resize_rule="transformers")


@pytest.fixture(scope="module")
def segmenter(model: ModelFolder) -> Segmenter:
    return Segmenter(model.files, settings=SEGMENTING, num_threads=1)


@pytest.fixture(scope="module")
def table(
    dataset: LabelledImages,
    model: ModelFolder,
    segmenter: Segmenter,
    tmp_path_factory: pytest.TempPathFactory,
) -> TableStore:
    place = str(tmp_path_factory.mktemp("labelled") / "table")
    return labelled_table(dataset.uri, model, segmenter, place=place)


@pytest.fixture(scope="module")
def of_rows(dataset: LabelledImages, table: TableStore) -> EvaluationSums:
    """Evaluates the table against the data set, once for tests that only read the result."""
    return from_table(dataset, table)


def evaluation_job(dataset: LabelledImages) -> EvaluationJob:
    return EvaluationJob(dataset=dataset, judge=judge("panoptic"), num_worst=3)


def on_two_actors(dataset: LabelledImages, model: ModelFolder) -> EvaluationSums:
    return evaluate_model(
        evaluation_job(dataset),
        segmenting=Segmenting(
            settings=SEGMENTING,
            actors=ActorSettings(num_actors=2, block_images=2),
            processor=model.processor,
            model_files=model.files,
        ),
        on_progress=lambda images, segments: None,
    )


def evaluate_by_hand(
    dataset: LabelledImages, model: ModelFolder, segmenter: Segmenter
) -> EvaluationSums:
    """Evaluates in this process, all images at once."""
    loader = ImageLoader(dataset=dataset, processor=model.processor, block_bytes=10**9)
    [block] = loader(pa.table({"index": range(len(dataset))}, schema=INDICES))
    [receipt] = evaluation_job(dataset).scorer(segmenter(block)).to_pylist()
    sums = EvaluationSums(metric=judge("panoptic").metric())
    sums.add(receipt, num_worst=3)
    return sums


def labelled_table(
    corpus: str, model: ModelFolder, segmenter: Segmenter, *, place: str
) -> TableStore:
    """Labels the photographs in several units, as the main job does."""
    reading, table = ReadSettings(), TableStore(place, Storage())
    spec = table_spec(model, segmenting=SEGMENTING, reading=reading)
    table.create(spec)
    units = UnitSettings(unit_bytes=8000)
    plan = plan_corpus(corpus, table=table, spec=spec, reading=reading, units=units)
    assert len(plan.units) > 1
    label_by_hand(
        plan.units, table=table, spec=spec, processor=model.processor, segmenter=segmenter
    )
    return table


def from_table(dataset: LabelledImages, table: TableStore) -> EvaluationSums:
    return evaluate_rows(
        prediction_tasks(table, dataset=dataset),
        job=evaluation_job(dataset),
        actors=ActorSettings(),
        on_progress=lambda images, segments: None,
    )


def numbers(sums: EvaluationSums) -> tuple[str, object]:
    worst = [(each["index"], each["score"], len(each["segments"])) for each in sums.worst]
    return str(sums.metric.compute()), (worst, sums.num_segments, sums.indices)


def test_two_actors_and_a_table_give_the_sums_of_one_process(
    dataset: LabelledImages, model: ModelFolder, segmenter: Segmenter, of_rows: EvaluationSums
) -> None:
    one = evaluate_by_hand(dataset, model, segmenter)
    assert one.indices == set(range(6))
    assert one.num_segments > 6
    assert len(one.worst) == 3
    assert numbers(of_rows) == numbers(one)
    assert numbers(on_two_actors(dataset, model)) == numbers(one)


def test_a_table_is_known_again_where_the_data_was_copied(
    dataset: LabelledImages, table: TableStore, tmp_path: Path
) -> None:
    put(tmp_path, panoptic_shards(scenes(6)))
    copy = open_labelled(DatasetSettings(dataset=str(tmp_path)))
    assert copy.uri != dataset.uri
    found, expected = (list(prediction_tasks(table, dataset=each)) for each in (copy, dataset))
    assert found == expected
    assert sum(len(task) for task in expected) == 6


def test_an_image_that_the_table_lacks_is_named(table: TableStore, tmp_path: Path) -> None:
    put(tmp_path, panoptic_shards(scenes(7)))
    more = open_labelled(DatasetSettings(dataset=str(tmp_path)))
    with pytest.raises(LabelError, match=r"image all.tar/scene-6 is not in .*/table, which has 6"):
        list(prediction_tasks(table, dataset=more))


def test_wrong_data_ends_it_by_name(dataset: LabelledImages, table: TableStore) -> None:
    labels = Labels(names=("road", "sky", "tree"), things=frozenset({2}))
    wrong = dataclasses.replace(dataset, labels=labels)
    with pytest.raises(LabelError, match=r"image all.tar/scene-\d.* has label 3; labels go from 0"):
        from_table(wrong, table)


def test_a_receipt_counts_once_or_not_at_all() -> None:
    sums = EvaluationSums(metric=judge("semantic").metric())
    receipt = {
        "indices": [0, 1],
        "sums": pickle.dumps(judge("semantic").metric()),
        "num_segments": 4,
        "worst": [],
        "error": None,
        "fault": None,
    }
    sums.add(receipt, num_worst=1)
    with pytest.raises(StorageFault, match="counted twice"):
        sums.add(receipt | {"indices": [1, 2]}, num_worst=1)
    with pytest.raises(StorageFault, match="away"):
        sums.add(receipt | {"fault": "away"}, num_worst=1)
    with pytest.raises(LabelError, match="wrong"):
        sums.add(receipt | {"error": "wrong"}, num_worst=1)
