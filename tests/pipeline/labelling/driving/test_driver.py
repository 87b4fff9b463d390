"""The driver keeps reading and segmenting apart, and commits what is done by hand."""

import dataclasses
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from corpora import picture, put
from labelled_by_hand import label_by_hand
from ray_here import ray_here
from specs import panoptic_spec

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.driving import driver
from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.operators import start_attempt_tracker
from pipeline.labelling.driving.ray_dataset import TaskSource, label_dataset
from pipeline.labelling.driving.unit_pass import MistakeInTask
from pipeline.labelling.driving.unit_queue import StoredUnits
from pipeline.labelling.driving.workers import BoundedLoad
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import UnitSettings, plan_corpus
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.runtime.run_stats import RunStats
from pipeline.storage import Storage
from pipeline.table.store import TableStore, images, segments

SPEC = panoptic_spec("road", "sky", "tree", "car", threshold=0.3, overlap_mask_area_threshold=0.1)
SEGMENTING = SegmentSettings(threshold=0.3, overlap_mask_area_threshold=0.1)


class DiaryStorage(Storage):
    """Writes down, beside the table, which processes have torch when they read or write."""

    diary: str

    @classmethod
    def of(cls, diary: Path) -> "DiaryStorage":
        storage = cls()
        object.__setattr__(storage, "diary", str(diary))
        return storage

    def _note(self, what: str, uri: str) -> None:
        kind = next((k for k in ("_staging", "segments", "images") if f"/{k}/" in uri), "source")
        with open(self.diary, "a") as file:
            file.write(f"{what} {kind} {os.getpid()} {'torch' in sys.modules}\n")

    def read(self, uri: str, **options) -> bytes:
        self._note("read", uri)
        return super().read(uri, **options)

    def write(self, uri: str, data: bytes) -> None:
        self._note("write", uri)
        super().write(uri, data)

    def write_once(self, uri: str, data: bytes) -> bytes:
        self._note("write", uri)
        return super().write_once(uri, data)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two cores without GPUs, on this machine."""
    with ray_here(__name__):
        yield


@pytest.fixture
def job(tmp_path, model_files, processor) -> LabellingJob:
    table = TableStore(str(tmp_path / "table"), DiaryStorage.of(tmp_path / "diary"))
    table.create(SPEC)
    return LabellingJob(
        table=table,
        spec=SPEC,
        run_id="run",
        reading=ReadSettings(),
        segmenting=SEGMENTING,
        # One: they are started again for each pass over units that failed.
        actors=ActorSettings(num_actors=1, block_images=3),
        processor=processor,
        model_files=model_files,
    )


def plan(corpus: str, job: LabellingJob):
    return plan_corpus(
        corpus,
        table=job.table,
        spec=SPEC,
        reading=job.reading,
        units=UnitSettings(unit_images=4),
    )


@pytest.mark.parametrize(
    "actors",
    [
        ActorSettings(),
        ActorSettings(reader_cpus=1, actor_cpus=1),  # equal requests invite Ray to fuse
        ActorSettings(reader_cpus=0.5, actor_cpus=0.5, num_actors=2),
        ActorSettings(actor_cpus=0.1),
    ],
)
def test_the_operators_are_those_of_production_on_a_machine_without_gpus(
    tmp_path, job, capsys, actors
):
    """Were reading fused into the actor, a GPU would wait for JPEGs."""
    corpus = put(tmp_path / "c", {f"{n}.png": picture(n) for n in range(3)})
    chosen = dataclasses.replace(job, actors=actors)
    label_dataset(
        TaskSource.of(StoredUnits.of(plan(corpus, job).units)),
        job=chosen,
        machines=Machines.of_cluster(actors),
        num_images=3,
        model=ray.put({}),
    ).explain()
    physical = capsys.readouterr().out.split("Physical Plan (Optimized)")[1]
    assert re.findall(r"(\w+)\[(.*)\]", physical) == [
        ("ActorPoolMapOperator", "MapBatches(SegmenterActor)"),
        ("TaskPoolMapOperator", "MapBatches(BoundedLoad.__call__)"),
        ("InputDataBuffer", "Input"),
    ]


def by_hand(units, *, job: LabellingJob, table: TableStore) -> None:
    """Labels in this process, one unit after another."""
    segmenter = Segmenter(job.model_files, settings=SEGMENTING, num_threads=1)
    label_by_hand(units, table=table, spec=SPEC, processor=job.processor, segmenter=segmenter)


def test_units_come_out_as_by_hand_and_one_that_fails_is_named(tmp_path, job, monkeypatch):
    """Beside one that another run has done since the plan, which is not read again."""
    monkeypatch.setattr(driver, "_PASSES", 2)  # each starts an actor
    corpus = put(
        tmp_path / "c",
        {
            **{f"{n}.png": picture(n) for n in range(10)},
            "5b.png": b"no image",
            **{f"z{n}.png": picture(n) for n in range(5)},
        },
    )
    first, second, third, fourth = units = plan(corpus, job).units
    put(tmp_path / "c", {"9.png": picture(100)})  # of the third: what was planned is no more
    by_hand([fourth], job=job, table=job.table)
    put(tmp_path / "c", {"z4.png": b"now it is another one, which would be an error"})
    (tmp_path / "diary").unlink()
    timed = dataclasses.replace(job, deadline=time.time() + 3600)
    stats = RunStats()
    was_stopped = run_units(units, job=timed, stats=stats, on_progress=lambda: True)

    assert not was_stopped
    assert job.table.done_units() == {first.unit_id, second.unit_id, fourth.unit_id}
    assert stats.faults.keys() == {third.unit_id}
    assert stats.faults[third.unit_id].startswith("SourceChanged: ")
    assert "9.png" in stats.faults[third.unit_id]
    assert (stats.units, stats.units_elsewhere, stats.units_left) == (2, 1, 0)
    assert stats.counts.images == 8
    assert stats.counts.errors == {"NotAnImage": 1}
    (example,) = stats.examples["NotAnImage"]
    assert example["image_id"] == "5b.png"

    hand = TableStore(str(tmp_path / "hand"), Storage())
    hand.create(SPEC)
    by_hand([first, second], job=job, table=hand)
    done = pc.field("unit_id") != fourth.unit_id
    found, expected = (images(t.uri).to_table(filter=done) for t in (job.table, hand))
    assert found["image_id"].to_pylist() == expected["image_id"].to_pylist()
    assert found["num_segments"].to_pylist() == expected["num_segments"].to_pylist()
    of_these = pc.field("image_id").isin(expected["image_id"].to_pylist())
    found, expected = (segments(t.uri).to_table(filter=of_these) for t in (job.table, hand))
    assert found.num_rows == stats.counts.segments > 8
    assert found["label"].to_pylist() == expected["label"].to_pylist()

    with_torch: dict[str, set[str]] = {}
    for line in (tmp_path / "diary").read_text().splitlines():
        what, process, has_torch = line.rsplit(" ", 2)
        if process != str(os.getpid()):  # this process has loaded it for other tests
            with_torch.setdefault(what, set()).add(has_torch)
    # Whether what is there is what was written; an actor too looks at a unit that another run did.
    assert with_torch.pop("read images") >= {"False"}
    assert with_torch == {
        "read source": {"False"},
        "write _staging": {"True"},  # by the actors
        "read _staging": {"False"},
        "write segments": {"False"},
        "write images": {"False"},
        "read segments": {"False"},
    }


class Broken(Storage):
    """Fails at the first image that is read, as code with an error in it does."""

    def read(self, uri: str, **options) -> bytes:
        if uri.endswith(".png"):
            raise KeyError("no such column")
        return super().read(uri, **options)


def test_an_error_in_our_own_code_ends_the_run_with_its_traceback(tmp_path, job):
    units = plan(put(tmp_path / "c", {"0.png": picture(0)}), job).units
    broken = dataclasses.replace(job, table=TableStore(job.table.uri, Broken()))
    with pytest.raises(MistakeInTask, match=r"(?s)Traceback.*KeyError: 'no such column'"):
        run_units(units, job=broken, stats=RunStats(), on_progress=lambda: True)


def test_a_task_that_processes_ended_over_is_given_back_as_lost():
    """A process that ends leaves its generator in the middle, as here; Ray then starts again."""
    attempts = start_attempt_tracker()
    task = pa.table({"unit_id": ["u"]})
    load = BoundedLoad(load=lambda task: iter([task, task]), attempts=attempts)
    for _ in range(4):
        assert next(load(task)) == task
    assert [block["kind"].to_pylist() for block in load(task)] == [["lost"]]
    other = pa.table({"unit_id": ["v"]})
    for _ in range(6):
        assert len(list(load(other))) == 2


def test_a_run_ends_when_it_is_told_to(tmp_path, job):
    corpus = put(tmp_path / "c", {f"{n:02}.png": picture(n) for n in range(12)})
    units = plan(corpus, job).units
    stats, threads = RunStats(), set(threading.enumerate())
    assert run_units(units, job=job, stats=stats, on_progress=lambda: False)
    # Were there one that used Ray after `ray.shutdown`, Ray would end this process.
    assert set(threading.enumerate()) <= threads
    assert len(job.table.done_units()) == stats.units
    assert stats.faults.keys() == {unit.unit_id for unit in units} - job.table.done_units()


def test_the_processor_decides_how_large_a_block_is():
    processor = MaskFormerImageProcessor(size={"height": 64, "width": 96})
    machines = Machines.of_cluster(ActorSettings(block_images=3))
    assert machines.block_bytes(processor) == 3 * 64 * 96 * 3


def test_without_gpus_each_core_has_an_actor_and_readers_keep_room():
    machines = Machines.of_cluster(ActorSettings())
    assert (machines.most_actors, machines.actor_threads) == (2, 1)
    # Twice as many, as when a node is lost, and still a reader and a stager fit.
    assert 2 * 2 * machines.actor_cpus + machines.reader_cpus + machines.stager_cpus <= 2


@pytest.mark.parametrize(("num_actors", "threads"), [(1, 2), (2, 1), (3, 1)])
def test_fewer_actors_than_cores_share_them(num_actors, threads):
    machines = Machines.of_cluster(ActorSettings(num_actors=num_actors))
    assert (machines.most_actors, machines.actor_threads) == (num_actors, threads)


@pytest.mark.parametrize(
    ("settings", "num_images", "expected"),
    [({}, 3, 1), ({}, 31, 1), ({}, 32, 2), ({}, 10**9, 2), ({"num_actors": 5}, 3, 5)],
)
def test_as_many_actors_start_at_once_as_get_a_block_each(settings, num_images, expected):
    machines = Machines.of_cluster(ActorSettings(**settings))
    assert machines.first_actors(num_images) == expected


def test_after_the_deadline_no_unit_begins_and_those_left_are_no_faults(tmp_path, job):
    corpus = put(tmp_path / "c", {f"{n:02}.png": picture(n) for n in range(12)})
    units = plan(corpus, job).units
    stats, late = RunStats(), dataclasses.replace(job, deadline=time.time() - 1)
    assert not run_units(units, job=late, stats=stats, on_progress=lambda: True)
    assert (stats.faults, stats.units, stats.units_left) == ({}, 0, len(units))
    assert job.table.done_units() == set()
