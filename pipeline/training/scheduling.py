"""Scheduling: the workers of a run on a cluster, started again when some are lost."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.fs
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

from pipeline.labelled.target import LabelError
from pipeline.settings import WrongUsage
from pipeline.storage import SourceChanged, Storage, StorageFault
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.worker import Assignment, train

_LOOK_EVERY_SECONDS = 0.5
_SHOWN = 400


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Who trains. Nothing here changes what comes out."""

    num_workers: int = 1
    """Processes that share the images of each step; one for each GPU."""
    worker_cpus: float | None = None
    """CPUs that a worker reserves; 1 beside a GPU, else its share of what the cluster has."""
    loader_processes: int = 1
    """Processes beside each worker that decode and augment; 0 for none, and the worker waits."""
    max_failures: int = 3
    """How often workers are started again, from the last checkpoint, before the run gives up."""
    ray_address: str | None = None
    """Cluster to work on; RAY_ADDRESS, or one that is started on this machine for the run."""

    def __post_init__(self) -> None:
        for name, least in (("num_workers", 1), ("loader_processes", 0), ("max_failures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.worker_cpus is not None and not self.worker_cpus > 0:
            raise ValueError(f"worker_cpus must be above 0, got {self.worker_cpus}")


class TrainingStopped(Exception):
    """Training cannot go on as it is set; the message says why."""


def run_workers(
    assignment: Assignment, *, settings: WorkerSettings, run_id: str, is_alone: bool
) -> None:
    """Trains to the end, on the cluster that Ray is connected to.

    Args:
        is_alone: whether the cluster is for this run, and ends with it.

    Raises:
        TrainingStopped: all workers had to stop, and would again.
        LabelError: data is no good.
        StorageFault: storage or cluster failed, more often than the settings allow.
    """
    resources = _resources(settings)
    cpus = resources["CPU"]
    assignment = replace(
        assignment, num_threads=None if resources.get("GPU") else max(1, int(cpus))
    )
    place, filesystem = _storage_of(assignment)
    trainer = (_AloneTrainer if is_alone else TorchTrainer)(
        train,
        train_loop_config={"assignment": ray.put(assignment)},
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers,
            use_gpu=bool(resources.get("GPU")),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            # A name of its own: what to go on from is found by ourselves, and only what is whole.
            name=run_id,
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    reason = _fitted(trainer).return_value
    if reason is not None:
        raise TrainingStopped(reason)


class _AloneTrainer(TorchTrainer):
    """Without the actors that give datasets of Ray's to workers and that tidy up a cluster after a
    run that died: each wakes up a hundred times a second, beside workers that need all cores."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, left_out)]


def _resources(settings: WorkerSettings) -> dict[str, float]:
    """Of each worker."""
    there = ray.cluster_resources()
    gpus, cpus = there.get("GPU", 0), there.get("CPU", 0)
    if gpus:
        resources = {"CPU": settings.worker_cpus or 1.0, "GPU": 1.0}
    else:
        share = cpus / settings.num_workers
        resources = {"CPU": settings.worker_cpus or (float(int(share)) if share >= 1 else share)}
    for name, amount in resources.items():
        if amount * settings.num_workers > there.get(name, 0):
            raise WrongUsage(
                f"{settings.num_workers} workers need {amount * settings.num_workers:g} {name}s "
                f"and the cluster has {there.get(name, 0):g}; lower --num_workers or --worker_cpus"
            )
    return resources


def _storage_of(assignment: Assignment) -> tuple[str, pyarrow.fs.FileSystem]:
    """Where Ray Train keeps a run, as it wants to be told of it."""
    root = Checkpoints(assignment.output, storage=assignment.storage).root
    if "://" not in root:
        return root, pyarrow.fs.LocalFileSystem()
    filesystem, path = Storage.filesystem(assignment.storage, root)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def _fitted(trainer: TorchTrainer) -> Any:
    """`fit`, in a thread of its own: in this one it would take Ctrl-C for itself."""
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_SECONDS)
    [result] = outcome
    if isinstance(result, BaseException):
        raise _as_ours(result) from result
    return result


def _as_ours(error: BaseException) -> BaseException:
    """What a worker raised, or that the cluster failed."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [cause for failure in failures for cause in _causes(failure)]
    for kind in (LabelError, StorageFault, SourceChanged):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    text = " ".join(str(failures[0]).split())
    return StorageFault(f"workers failed too often: {text[-_SHOWN:]}")


def _causes(failure: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = failure
    while current is not None and current not in found:
        found.append(current)
        current = getattr(current, "_base_exc", None) or current.__cause__
    return found
