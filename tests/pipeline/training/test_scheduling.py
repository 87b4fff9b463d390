"""What a run ends with when its workers do, and when they are started again."""

import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from corpora import put
from drawn_labels import panoptic_shards, scenes
from ray.train import WorkerGroupError

from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.storage import Storage, StorageFault
from pipeline.training import scheduling
from pipeline.training.announcer import Announcer
from pipeline.training.initial_model import StartSettings, read_start
from pipeline.training.notes import DriverNotes, WorkerNotes
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.scheduling import (
    TrainingStopped,
    WorkerSettings,
    _as_ours,
    _loader_processes,
    _outcome,
    run_workers,
)
from pipeline.training.worker import TrainingJob


def worker_errors(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("workers failed", dict(enumerate(errors)))


def test_what_a_worker_raised_of_data_comes_before_what_the_others_saw_of_its_end():
    error = worker_errors(RuntimeError("connection closed by peer"), LabelError("image a: no good"))
    assert isinstance(_as_ours(error), LabelError)
    assert str(_as_ours(error)) == "image a: no good"


def test_a_full_disk_stays_a_fault_of_storage():
    fault = _as_ours(worker_errors(StorageFault("the checkpoint x cannot be written")))
    assert isinstance(fault, StorageFault)
    assert "cannot be written" in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        torch.distributed.DistBackendError("NCCL error: unhandled system error"),
        ray.exceptions.RayActorError(),
        OSError("Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_settings_or_data_is_worth_trying_again(error: Exception):
    fault = _as_ours(worker_errors(error))
    assert isinstance(fault, StorageFault)
    assert str(fault).startswith("workers failed: ")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("an image cannot be padded from (96, 64) to a smaller (64, 96)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 7x3)"),
        KeyError(7),
        NotImplementedError("no kernel for this type of memory format"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_come_again_ends_the_run_with_the_worker_s_words(error: Exception):
    ended = _as_ours(worker_errors(RuntimeError("gloo: Connection closed by peer"), error))
    assert isinstance(ended, TrainingStopped)
    assert f"a worker failed with {type(error).__name__}: {error}; it would fail again" in str(
        ended
    )


@pytest.fixture
def training_job(tmp_path: Path) -> TrainingJob:
    dataset = open_labelled(DatasetSettings(dataset=put(tmp_path / "x", panoptic_shards(scenes()))))
    settings = StartSettings(architecture="maskformer-swin-tiny-ade20k")
    start = read_start(settings, labels=dataset.labels.names)
    return TrainingJob(
        output=str(tmp_path / "output"),
        storage=Storage(),
        start=start,
        data=TrainingData(
            dataset=dataset, augmentation=Augmentation(), processor=start.processor, seed=0
        ),
        validation=None,
        optimisation=OptimisationSettings(),
        auxiliary_losses=True,
        checkpoint_every=1,
        keep_checkpoints=1,
        log_every=1,
        loader_processes=0,
    )


def run_with(
    outcomes: Sequence[Any],
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
    **settings: Any,
) -> list[str]:
    """Runs workers that end so, one start after the other; the names of the starts."""
    names, left = [], list(outcomes)

    class Trainer:
        def __init__(self, train: Any, *, run_config: Any, **others: Any) -> None:
            assert run_config.failure_config.max_failures == 0
            names.append(run_config.name)

        def fit(self) -> Any:
            outcome = left.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return SimpleNamespace(return_value=outcome)

    monkeypatch.setattr(scheduling, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    try:
        run_workers(
            job,
            settings=WorkerSettings(**settings),
            run_id="run",
            announcer=Announcer(),
        )
    finally:
        assert not left
    return names


def test_lost_workers_are_started_again_under_a_name_of_their_own(
    training_job: TrainingJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lost = worker_errors(ray.exceptions.RayActorError())
    names = run_with([lost, lost, None], training_job, monkeypatch, max_failures=2)
    assert names == ["run-0", "run-1", "run-2"]
    assert "starting the workers again (2 of at most 2 times)" in capsys.readouterr().err


def test_workers_are_lost_no_more_often_than_the_settings_allow(
    training_job: TrainingJob, monkeypatch: pytest.MonkeyPatch
):
    lost = worker_errors(ray.exceptions.RayActorError())
    with pytest.raises(StorageFault, match="workers failed"):
        run_with([lost, lost], training_job, monkeypatch, max_failures=1)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (worker_errors(ValueError("shapes differ")), TrainingStopped),
        (worker_errors(LabelError("image a: no good")), LabelError),
        ("step 3: the gradient must be finite", TrainingStopped),
    ],
    ids=["an error of shapes", "an image", "a gradient"],
)
def test_what_would_come_again_is_not_tried_again(
    training_job: TrainingJob, monkeypatch: pytest.MonkeyPatch, outcome: Any, kind: type[Exception]
):
    with pytest.raises(kind):
        run_with([outcome], training_job, monkeypatch)


def test_a_cluster_without_gpus_is_asked_for_no_more_than_it_has(
    training_job: TrainingJob, monkeypatch: pytest.MonkeyPatch
):
    optimisation = OptimisationSettings(batch_norm="synchronised")
    wanted = dataclasses.replace(training_job, optimisation=optimisation)
    with pytest.raises(ValueError, match="batch_norm synchronised needs GPUs"):
        run_with([], wanted, monkeypatch)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, which a shell that starts tests in the background leaves out."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_lets_workers_stop_by_themselves_and_a_second_one_does_not_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    storage, place = Storage(), str(tmp_path / "notes")
    worker = WorkerNotes(place, storage=storage, first_step=0)
    worker.step_taken(1)
    notes = DriverNotes(place, storage=storage)

    class Trainer:
        def fit(self) -> str:
            while notes.progress() is None:
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)
            while not worker.is_stop_asked:
                time.sleep(0.01)
            return "stopped"

    assert _outcome(Trainer(), notes=notes, announcer=Announcer()) == "stopped"  # type: ignore[arg-type]
    assert notes.has_asked
    assert "stopping after this step, with a checkpoint" in capsys.readouterr().err

    class Endless:
        def fit(self) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        _outcome(Endless(), notes=notes, announcer=Announcer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cluster", "given", "expected"),
    [
        ({"CPU": 16.0}, None, 1),
        ({"CPU": 16.0, "GPU": 1.0}, None, 8),
        ({"CPU": 32.0, "GPU": 8.0}, None, 3),
        ({"CPU": 4.0, "GPU": 8.0}, None, 1),
        ({"CPU": 32.0, "GPU": 8.0}, 0, 0),
        ({"CPU": 2.0}, 5, 5),
    ],
)
def test_a_worker_beside_a_gpu_has_a_loader_process_for_each_core_but_one(
    cluster: dict, given: int | None, expected: int
):
    settings = WorkerSettings(loader_processes=given)
    assert _loader_processes(settings, cluster=cluster) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"loader_processes": -1}, "loader_processes must be at least 0"),
        ({"worker_cpus": 0.0}, "worker_cpus must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        WorkerSettings(**values)
