"""The sums are the same on one actor and on two, and from a table."""

import dataclasses
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from predicted import judge, model_folder_of

from pipeline.evaluation.flow import (
    Comparison,
    Segmenting,
    Verdict,
    evaluate_model,
    evaluate_rows,
    take,
)
from pipeline.evaluation.judging import Task
from pipeline.evaluation.predictions import prediction_tasks
from pipeline.labelled.dataset import LabelledImages
from pipeline.labelled.target import LabelError, Labels
from pipeline.labelling.cluster import ActorSettings
from pipeline.labelling.flow import Work, run_units
from pipeline.labelling.model import ModelFolder, read_model, table_spec
from pipeline.labelling.planning import UnitSettings, plan_corpus
from pipeline.labelling.settings import SegmentSettings
from pipeline.labelling.tally import Tally
from pipeline.reading import ReadSettings
from pipeline.storage import Storage, StorageFault
from pipeline.table import TableStore


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two cores without GPUs, on this machine."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers lack our folder
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=2,
        num_gpus=0,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder = model_folder_of(tmp_path_factory.mktemp("model"))
    return read_model(str(folder), resize_rule="transformers")


def settings(task: Task) -> SegmentSettings:
    if task == "semantic":
        return SegmentSettings(task="semantic")
    fused = (0, 1) if task == "panoptic" else None
    return SegmentSettings(
        task=task, threshold=0.3, overlap_mask_area_threshold=0.1, label_ids_to_fuse=fused
    )


def by_model(
    dataset: LabelledImages, model: ModelFolder, *, task: Task, num_actors: int
) -> Verdict:
    return evaluate_model(
        Comparison(dataset=dataset, judge=judge(task), num_worst=3),
        segmenting=Segmenting(
            settings=settings(task),
            actors=ActorSettings(num_actors=num_actors, block_images=2),
            processor=model.processor,
            model_files=model.files,
        ),
        on_progress=lambda images, segments: None,
    )


def by_table(dataset: LabelledImages, model: ModelFolder, *, task: Task, table: str) -> Verdict:
    """Labels the data set's photographs as a corpus, and judges the rows."""
    store, reading = TableStore(table, Storage()), ReadSettings()
    spec = table_spec(model, segmenting=settings(task), reading=reading)
    store.create(spec)
    plan = plan_corpus(
        dataset.uri, table=store, spec=spec, reading=reading, units=UnitSettings(unit_bytes=8000)
    )
    assert len(plan.units) > 1
    work = Work(
        table=store,
        spec=spec,
        run_id="run",
        reading=reading,
        segmenting=settings(task),
        actors=ActorSettings(num_actors=1),
        processor=model.processor,
        model_files=model.files,
    )
    tally = Tally()
    run_units(plan.units, work=work, tally=tally, on_progress=lambda: True)
    assert not tally.faults
    return evaluate_rows(
        prediction_tasks(store, dataset=dataset),
        comparison=Comparison(dataset=dataset, judge=judge(task), num_worst=3),
        actors=ActorSettings(),
        on_progress=lambda images, segments: None,
    )


def numbers(verdict: Verdict) -> tuple[str, object]:
    worst = [(each["index"], each["score"], len(each["segments"])) for each in verdict.worst]
    return str(verdict.metric.compute()), (worst, verdict.num_segments, verdict.indices)


def test_two_actors_and_a_table_give_the_sums_of_one_actor(
    dataset: LabelledImages, model: ModelFolder, tmp_path: Path
) -> None:
    one = by_model(dataset, model, task="panoptic", num_actors=1)
    assert one.indices == set(range(6))
    assert one.num_segments > 6
    assert len(one.worst) == 3
    assert numbers(by_model(dataset, model, task="panoptic", num_actors=2)) == numbers(one)
    table = by_table(dataset, model, task="panoptic", table=str(tmp_path / "table"))
    assert numbers(table) == numbers(one)


def test_wrong_data_ends_it_by_name(model: ModelFolder, dataset: LabelledImages) -> None:
    labels = Labels(names=("road", "sky", "tree"), things=frozenset({2}))
    wrong = dataclasses.replace(dataset, labels=labels)
    with pytest.raises(LabelError, match=r"image all.tar/scene-\d.* has label 3; labels go from 0"):
        by_model(wrong, model, task="panoptic", num_actors=1)


def test_a_receipt_counts_once_or_not_at_all() -> None:
    verdict = Verdict(metric=judge("semantic").metric())
    receipt = {
        "indices": [0, 1],
        "sums": pickle.dumps(judge("semantic").metric()),
        "num_segments": 4,
        "worst": [],
        "error": None,
        "fault": None,
    }
    take(receipt, verdict=verdict, num_worst=1)
    with pytest.raises(StorageFault, match="counted twice"):
        take(receipt | {"indices": [1, 2]}, verdict=verdict, num_worst=1)
    with pytest.raises(StorageFault, match="away"):
        take(receipt | {"fault": "away"}, verdict=verdict, num_worst=1)
    with pytest.raises(LabelError, match="wrong"):
        take(receipt | {"error": "wrong"}, verdict=verdict, num_worst=1)
