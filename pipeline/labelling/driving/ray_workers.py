"""Labels units on a Ray cluster: a dataset gives the receipts, tasks make the commits."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.labelling.commit import clear_staging, commit_unit
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.operators import receipts
from pipeline.labelling.driving.ray_dataset import TaskSource, label_dataset
from pipeline.labelling.driving.unit_pass import CommitFailed, EveryGpuLeftAlone, WorkersFailed
from pipeline.labelling.failures.gpu_actors import held
from pipeline.labelling.failures.gpu_work import gpus_left_alone
from pipeline.labelling.failures.poison import IsolationContext, reason
from pipeline.labelling.model import ModelFiles
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.runtime.run_stats import Counts
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableSpec, TableStore

_COMMIT_RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class SharedActors:
    """The model and the actors that the workers of a run share."""

    model: "ray.ObjectRef[ModelFiles]"
    attempts: RemoteObject
    """The `AttemptTracker`."""
    admission: RemoteObject | None = None
    """The `DeadlineAdmission`; None for a run without a deadline."""


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """The units of a pass, as tasks and by their names."""

    source: TaskSource
    unit_ids: Callable[[], Collection[str]]
    """Returns the units that the pass has begun or will begin, as far as it is known."""
    num_images: int
    """About how many images the units have in all."""


class RayWorkers:
    """The workers of a cluster, or of a group of its nodes."""

    def __init__(
        self,
        work: UnitWork,
        *,
        job: LabellingJob,
        actors: SharedActors,
        group: NodeGroup | None = None,
    ) -> None:
        """Takes the work of a pass; None as a group stands for all nodes."""
        self._work, self._job, self._actors, self._group = work, job, actors, group
        self.admission = actors.admission

    def unit_ids(self) -> Collection[str]:
        return self._work.unit_ids()

    @contextlib.contextmanager
    def receipts(
        self, *, isolation: IsolationContext | None
    ) -> Iterator[Iterator[Mapping[str, Any]]]:
        failed = gpus_left_alone(self._actors.attempts, group=self._group)
        if self._group is not None and len(failed) >= self._group.num_gpus:
            raise EveryGpuLeftAlone
        with held(failed):
            machines = Machines.of_cluster(
                self._job.actors, group=self._group, gpus_left_alone=len(failed)
            )
            dataset = label_dataset(
                self._work.source,
                job=self._job,
                machines=machines,
                num_images=self._work.num_images,
                model=self._actors.model,
                admission=self.admission,
                attempts=self._actors.attempts,
                isolation=isolation,
                group=self._group,
            )
            try:
                with contextlib.closing(receipts(dataset)) as arriving:
                    yield arriving
            except ExecutionTimeoutError as error:
                raise WorkersFailed(reason(error)) from error

    def start_commit(self, unit_id: str, *, parts: list[str], num_images: int) -> Any:
        return _commit.remote(
            unit_id,
            parts=parts,
            num_images=num_images,
            table=self._job.table,
            spec=self._job.spec,
        )

    def ended_commits(self, commits: list[Any], *, at_least: int) -> list[Any]:
        ended, _ = ray.wait(commits, num_returns=max(1, at_least), timeout=None if at_least else 0)
        return ended

    def committed(self, commit: Any) -> tuple[Counts, list[Retries]]:
        try:
            return ray.get(commit)
        except ray.exceptions.RayError as error:
            raise CommitFailed(reason(error)) from error


@ray.remote(num_cpus=0, max_retries=_COMMIT_RETRIES)
def _commit(
    unit_id: str, *, parts: list[str], num_images: int, table: TableStore, spec: TableSpec
) -> tuple[Counts, list[Retries]]:
    committed = commit_unit(unit_id, parts=parts, num_images=num_images, table=table, spec=spec)
    clear_staging(table, unit_id)
    return committed, take_retries()
