"""Executes one pass over units: iterates over receipts, and commits units that are complete.

`driver.py` runs a pass in its own process, or in one process for each group of nodes
(`sub_drivers.py`).
"""

import collections
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.labelling.commit import clear_staging, commit_unit
from pipeline.labelling.driving.deadline import NOT_BEGUN
from pipeline.labelling.driving.operators import DONE_ELSEWHERE, false_if_storage_fails, receipts
from pipeline.labelling.driving.ray_dataset import LabellingJob, TaskSource, label_dataset
from pipeline.labelling.driving.unit_queue import NO_UNIT_LEFT
from pipeline.labelling.driving.unit_receipts import UnitReceipts
from pipeline.labelling.failures.gpu_actors import LEFT_ALONE, gpus_left_alone, held
from pipeline.labelling.failures.poison import (
    LOST,
    MISTAKE,
    IsolationContext,
    is_of_the_cluster,
    reason,
)
from pipeline.labelling.model import ModelFiles
from pipeline.runtime.cluster import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.storage import StorageFault
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableSpec, TableStore

_COMMIT_RETRIES = 3
_COMMITS_AT_ONCE = 16
# Each look at the commits under way takes 75 microseconds, and receipts come by the thousand.
_LOOK_AT_COMMITS_SECONDS = 0.05
_NO_END = "some of its images were lost, with the process that worked on them"


@dataclass(frozen=True, kw_only=True)
class SharedActors:
    """The model and the actors that the workers of a pass share."""

    model: "ray.ObjectRef[ModelFiles]"
    attempts: Any
    """The actor of an `AttemptTracker`."""
    admission: Any = None
    """The actor of a `DeadlineAdmission`; None for a run without a deadline."""


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """The units of a pass, as tasks and by their names."""

    source: TaskSource
    unit_ids: Callable[[], Collection[str]]
    """Returns the units that the pass has begun or will begin, as far as it is known."""
    num_images: int
    """About how many images the units have in all."""


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """The result of a pass over units."""

    done: Collection[str]
    """Units that need no more work."""
    was_stopped: bool = False
    """Whether `on_progress` ended the pass."""
    is_shut: bool = False
    """Whether the deadline lets no further unit begin."""
    begun: Collection[str] = ()
    """Units that had begun by then."""
    lost_workers: bool = False
    """Whether units are undone for another reason than a storage fault."""
    met_gpu_left_alone: bool = False
    """Whether an actor started on such a GPU, which ends the pass."""


class UnitPass:
    """Executes a dataset once over units."""

    def __init__(
        self,
        work: UnitWork,
        *,
        job: LabellingJob,
        actors: SharedActors,
        stats: RunStats,
        on_progress: Callable[[], bool],
        isolation: IsolationContext | None = None,
        group: NodeGroup | None = None,
    ) -> None:
        """Takes what `run` needs.

        Args:
            stats: is kept up to date.
            on_progress: is called after each receipt; False ends the pass after the commits that
                are under way.
            isolation: images that end processes, in a pass that looks for them; None in others.
            group: the nodes that work on the units; None for all.
        """
        self._work, self._job, self._stats, self._on_progress = work, job, stats, on_progress
        self._actors, self._isolation, self._group = actors, isolation, group
        self._collected: dict[str, UnitReceipts] = collections.defaultdict(UnitReceipts)
        self._commits: dict[Any, str] = {}
        self._looked_at_commits = 0.0
        self.done: dict[str, None] = {}
        """Units that need no more work, in the order in which they were done."""
        self._was_stopped = self._is_shut = self._lost_workers = False
        self._begun: Collection[str] = ()
        self._last_units: Collection[str] | None = None
        self._gpu_left_alone: str | None = None

    def run(self) -> PassResult:
        """Labels and commits the units, as far as nothing fails."""
        failed = gpus_left_alone(self._actors.attempts, group=self._group)
        if self._group is not None and len(failed) >= self._group.num_gpus:
            return PassResult(done=(), met_gpu_left_alone=True)
        with held(failed):
            return self._run(num_gpus_left_alone=len(failed))

    def _run(self, *, num_gpus_left_alone: int) -> PassResult:
        machines = Machines.of_cluster(
            self._job.actors, group=self._group, gpus_left_alone=num_gpus_left_alone
        )
        dataset = label_dataset(
            self._work.source,
            job=self._job,
            machines=machines,
            num_images=self._work.num_images,
            model=self._actors.model,
            admission=self._actors.admission,
            attempts=self._actors.attempts,
            isolation=self._isolation,
            group=self._group,
        )
        try:
            with contextlib.closing(receipts(dataset)) as arriving:
                for receipt in arriving:
                    self._add(receipt)
                    self._finish_commits(at_most=_COMMITS_AT_ONCE)
                    if not self._on_progress():
                        self._was_stopped = True
                        break
                    if self._gpu_left_alone is not None:
                        self._mark_lost(self._gpu_left_alone)
                        break
                    if self._last_units is not None and not self._awaits_receipts():
                        break
            if not (self._was_stopped or self._is_shut):
                self._mark_lost(_NO_END)
        except MistakeInTask:
            raise
        except ExecutionTimeoutError as error:
            self._mark_lost(reason(error))
        except Exception as error:  # Ray Data wraps its workers' errors in classes of its own
            if not is_of_the_cluster(error.__cause__ or error) and not is_of_the_cluster(error):
                raise
            self._mark_lost(reason(error.__cause__ or error))
        self._finish_commits(at_most=0)
        self._stats.counts.take_back(self.counts_under_way())
        self._collected.clear()
        return PassResult(
            done=frozenset(self.done),
            was_stopped=self._was_stopped,
            is_shut=self._is_shut,
            begun=frozenset(self._begun),
            lost_workers=self._lost_workers and self._gpu_left_alone is None,
            met_gpu_left_alone=self._gpu_left_alone is not None,
        )

    def counts_under_way(self) -> Counts:
        """Returns the counts of images whose units are not done."""
        counts = Counts()
        for collected in self._collected.values():
            counts.add(collected.counts)
        return counts

    def _add(self, receipt: Mapping[str, Any]) -> None:
        unit_id = receipt["unit_id"]
        self._stats.add_retries(Retries(**each) for each in receipt["storage_retries"] or ())
        if receipt["fault"] == NO_UNIT_LEFT:
            self._note_last_units()
            return
        if receipt["fault_kind"] == MISTAKE:
            raise MistakeInTask(f"a task failed on unit {unit_id}:\n{receipt['fault']}")
        if receipt["fault_kind"] == LEFT_ALONE:
            self._gpu_left_alone = receipt["fault"]
            return
        if not unit_id or unit_id in self.done or self._collected[unit_id].is_committing:
            return  # lost before it was known which unit it is, or a task that ran twice
        if receipt["fault"] == NOT_BEGUN:
            self._shut()
        elif receipt["fault"] == DONE_ELSEWHERE:
            self._stats.units_elsewhere += 1
            self._stats.counts.take_back(self._collected[unit_id].counts)
            self._note_done(unit_id)
        elif receipt["fault"]:
            self._stats.faults[unit_id] = receipt["fault"]
            self._lost_workers |= receipt["fault_kind"] == LOST
        else:
            self._count(receipt, unit_id=unit_id)

    def _count(self, receipt: Mapping[str, Any], *, unit_id: str) -> None:
        collected = self._collected[unit_id]
        counts, errors = collected.add(receipt)
        self._stats.add(counts, errors=errors)
        if collected.is_complete:
            self._stats.faults.pop(unit_id, None)
            collected.is_committing = True
            self._commits[self._commit(unit_id, collected)] = unit_id

    def _commit(self, unit_id: str, collected: UnitReceipts) -> Any:
        return _commit.remote(
            unit_id,
            parts=collected.parts,
            num_images=collected.num_images,
            table=self._job.table,
            spec=self._job.spec,
        )

    def _finish_commits(self, *, at_most: int) -> None:
        """Notes commits that are over, now and then; waits until `at_most` are under way."""
        is_time = time.monotonic() - self._looked_at_commits >= _LOOK_AT_COMMITS_SECONDS
        if not is_time and len(self._commits) <= at_most:
            return
        self._looked_at_commits = time.monotonic()
        while self._commits:
            wait_for = max(0, len(self._commits) - at_most)
            ready, _ = ray.wait(
                list(self._commits),
                num_returns=max(1, wait_for),
                timeout=None if wait_for else 0,
            )
            if not ready:
                return
            for each in ready:
                self._finish_commit(each, unit_id=self._commits.pop(each))

    def _finish_commit(self, commit: Any, *, unit_id: str) -> None:
        try:
            committed, retries = ray.get(commit)
            self._stats.add_retries(retries)
            self._stats.settle(self._collected[unit_id].counts, committed)
        except (ray.exceptions.RayError, StorageFault) as error:
            # The commit's process may have ended after the commit.
            if not false_if_storage_fails(self._job.table.is_done)(unit_id):
                self._stats.faults[unit_id] = reason(error)
                return
        self._stats.units += 1
        self._note_done(unit_id)
        if self._actors.admission is not None:
            self._actors.admission.note_done.remote(unit_id)

    def _note_done(self, unit_id: str) -> None:
        self.done[unit_id] = None
        self._stats.faults.pop(unit_id, None)
        # Memory does not grow with the corpus.
        self._collected.pop(unit_id, None)

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut, self._begun = True, ray.get(self._actors.admission.begun.remote())
            self._note_last_units()

    def _note_last_units(self) -> None:
        """Notes that no unit begins any more but those that have begun."""
        units = set(self._work.unit_ids())
        self._last_units = units.intersection(self._begun) if self._is_shut else units

    def _awaits_receipts(self) -> bool:
        """Returns whether one of the last units is still without all its receipts."""
        return any(
            unit_id not in self.done
            and unit_id not in self._stats.faults
            and not self._collected[unit_id].is_committing
            for unit_id in self._last_units or ()
        )

    def _mark_lost(self, fault: str) -> None:
        """Notes `fault` for all undone units without a fault of their own, as lost to workers."""
        for unit_id in self._work.unit_ids():
            undone = unit_id not in self.done and not self._collected[unit_id].is_committing
            if undone and unit_id not in self._stats.faults:
                self._stats.faults[unit_id] = fault
                self._lost_workers = True


class MistakeInTask(RuntimeError):
    """A task raised an error of our own code; the message has its traceback."""


@ray.remote(num_cpus=0, max_retries=_COMMIT_RETRIES)
def _commit(
    unit_id: str, *, parts: list[str], num_images: int, table: TableStore, spec: TableSpec
) -> tuple[Counts, list[Retries]]:
    committed = commit_unit(unit_id, parts=parts, num_images=num_images, table=table, spec=spec)
    clear_staging(table, unit_id)
    return committed, take_retries()
