"""Runs the workers of a run on a cluster, and starts them again when some are lost.

Ray Train starts them once; this file decides by their errors whether to start them again.
"""

import functools
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.datasets.target import LabelError
from pipeline.runtime.settings import WrongUsage
from pipeline.runtime.wording import count
from pipeline.storage import SourceChanged, Storage, StorageFault, join
from pipeline.training.announcer import Announcer
from pipeline.training.checkpoint import Checkpoints, ray_train_storage
from pipeline.training.history_display import HistoryDisplay
from pipeline.training.notes import DriverNotes
from pipeline.training.optimisation import check_device
from pipeline.training.settings import WorkerSettings
from pipeline.training.worker import TrainingJob, train

_LOOK_EVERY_SECONDS = 0.5
_MOST_LOADER_PROCESSES = 8
_SHOWN = 400


class TrainingStopped(WrongUsage):
    """Training cannot go on with these settings; the message says why."""


def run_workers(
    job: TrainingJob,
    *,
    settings: WorkerSettings,
    run_id: str,
    announcer: Announcer,
) -> None:
    """Trains to the end, on the cluster that Ray is connected to.

    Raises:
        TrainingStopped: workers failed, and would fail again.
        LabelError: an image or its labels are damaged.
        SourceChanged: the storage holds another file now.
        StorageFault: storage or cluster failed, more often than the settings allow.
        ValueError: the cluster's machines cannot follow the settings.
        KeyboardInterrupt: stopped on request; a checkpoint has all steps.
    """
    resources = _resources(settings)
    check_device(job.optimisation, device="cuda" if resources.get("GPU") else "cpu")
    cpus = resources["CPU"]
    job = replace(
        job,
        num_threads=None if resources.get("GPU") else max(1, int(cpus)),
        loader_processes=_loader_processes(settings, cluster=ray.cluster_resources()),
    )
    reference = ray.put(job)
    storage = job.storage
    root = Checkpoints(job.output, storage=storage).root
    with HistoryDisplay(
        job.output,
        storage=storage,
        announcer=announcer,
        num_steps=job.optimisation.num_steps,
    ) as followed:
        for attempt in range(settings.max_failures + 1):
            # With a new name Ray Train does not resume; workers find the last whole checkpoint.
            name = f"{run_id}-{attempt}"
            notes = DriverNotes(join(root, name), storage=storage)
            announcer.doing(f"starting {count(settings.num_workers, 'worker')}")
            followed.of_workers(notes)
            trainer = TorchTrainer(
                functools.partial(train, reference),
                scaling_config=ScalingConfig(
                    num_workers=settings.num_workers,
                    use_gpu=bool(resources.get("GPU")),
                    resources_per_worker=resources,
                ),
                run_config=_run_config(name, root=root, storage=storage),
            )
            outcome = _outcome(trainer, notes=notes, announcer=announcer)
            if notes.has_asked:
                raise KeyboardInterrupt
            if not isinstance(outcome, BaseException):
                break
            why = _as_ours(outcome)
            if not isinstance(why, StorageFault) or attempt == settings.max_failures:
                raise why from outcome
            announcer.say(
                f"{why}; starting the workers again ({attempt + 1} of at most "
                f"{count(settings.max_failures, 'time')})"
            )
    if outcome.return_value is not None:
        raise TrainingStopped(outcome.return_value)


def _run_config(name: str, *, root: str, storage: Storage) -> RunConfig:
    place, filesystem = ray_train_storage(root, storage=storage)
    return RunConfig(
        name=name,
        storage_path=place,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=0),
    )


def _resources(settings: WorkerSettings) -> dict[str, float]:
    """Returns the resources of each worker."""
    available = ray.cluster_resources()
    gpus, cpus = available.get("GPU", 0), available.get("CPU", 0)
    if gpus:
        resources = {"CPU": settings.worker_cpus or 1.0, "GPU": 1.0}
    else:
        share = cpus / settings.num_workers
        resources = {"CPU": settings.worker_cpus or (float(int(share)) if share >= 1 else share)}
    for name, amount in resources.items():
        if amount * settings.num_workers > available.get(name, 0):
            need = "needs" if settings.num_workers == 1 else "need"
            raise WrongUsage(
                f"{count(settings.num_workers, 'worker')} {need} "
                f"{amount * settings.num_workers:g} {name}s and the cluster has "
                f"{available.get(name, 0):g}; lower --num_workers or --worker_cpus"
            )
    return resources


def _loader_processes(settings: WorkerSettings, *, cluster: Mapping[str, float]) -> int:
    """Returns the loader processes of each worker: beside a GPU all of its cores but one."""
    if settings.loader_processes is not None:
        return settings.loader_processes
    gpus, cpus = cluster.get("GPU", 0), cluster.get("CPU", 0)
    return min(max(int(cpus / gpus) - 1, 1), _MOST_LOADER_PROCESSES) if gpus else 1


def _outcome(trainer: TorchTrainer, *, notes: DriverNotes, announcer: Announcer) -> Any:
    """Returns the result or the error of `fit`, which runs in another thread: in the main thread it
    would handle Ctrl-C itself."""
    outcome: list[Any] = []
    may_begin, is_over = threading.Event(), threading.Event()

    def fit() -> None:
        may_begin.wait()
        try:
            outcome.append(trainer.fit())
        except BaseException as error:
            outcome.append(error)
        is_over.set()

    threading.Thread(target=fit, daemon=True).start()
    while True:
        try:
            may_begin.set()  # from here on Ctrl-C is heard
            # `join` would take a thread for ended when Ctrl-C interrupts it.
            while not is_over.wait(_LOOK_EVERY_SECONDS):
                pass
            break
        except KeyboardInterrupt:
            if not notes.ask_to_stop():
                raise
            announcer.say(
                "stopping after this step, with a checkpoint; Ctrl-C again stops at once and loses "
                "the steps since the last checkpoint"
            )
    [result] = outcome
    return result


def _as_ours(error: BaseException) -> BaseException:
    """Returns a worker's own error, or a StorageFault for a failed cluster, which may pass."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [cause for failure in failures for cause in _causes(failure)]
    for kind in (LabelError, StorageFault, SourceChanged):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    for cause in causes:
        if _would_come_again(cause):
            text = " ".join(str(cause).split())
            return TrainingStopped(
                f"a worker failed with {type(cause).__name__}: {text[:_SHOWN]}; it would fail "
                "again, so no worker was started again: change the settings, the model or the data"
            )
    text = " ".join(str(failures[0]).split())
    return StorageFault(f"workers failed: {text[-_SHOWN:]}")


# Python and torch raise these for wrong input, which would be wrong again.
_COME_AGAIN = (
    ValueError, TypeError, LookupError, AttributeError, AssertionError, NameError, ImportError,
    ArithmeticError, RuntimeError,
)  # fmt: skip

# Failures of machines and networks. Some have no class in torch and are known by their words.
_MAY_PASS = (RayError, dist.DistError, torch.OutOfMemoryError, torch.AcceleratorError)
_WORDS_THAT_MAY_PASS = (
    "connection", "gloo", "nccl", "timed out", "timeout", "memory", "cuda error", "process group"
)  # fmt: skip


def _would_come_again(cause: BaseException) -> bool:
    if not isinstance(cause, _COME_AGAIN) or isinstance(cause, _MAY_PASS):
        return False
    text = str(cause).lower()
    is_of_torch = isinstance(cause, RuntimeError) and not isinstance(cause, NotImplementedError)
    return not (is_of_torch and any(word in text for word in _WORDS_THAT_MAY_PASS))


def _causes(failure: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = failure
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__
    return found
