"""Drives a labelling run: passes over the units until all are committed.

Iterates over the receipts of `ray_dataset.py`, and starts a commit as soon as the receipts of a
unit are complete. Units that fail are tried again in another pass, a bounded number of times, the
later ones in isolation (`poison.py`); those that stay undone are named in the run's stats.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.labelling.commit import clear_staging, commit_unit
from pipeline.labelling.deadline import NOT_BEGUN, DeadlineAdmission
from pipeline.labelling.gpu_actors import LEFT_ALONE, UsableGpus
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.operators import (
    ATTEMPT_TRACKER,
    DONE_ELSEWHERE,
    false_if_storage_fails,
    receipts,
)
from pipeline.labelling.poison import (
    LOST,
    MISTAKE,
    IsolationContext,
    is_of_the_cluster,
    quarantine,
    reason,
)
from pipeline.labelling.ray_dataset import LabellingJob, label_dataset
from pipeline.labelling.unit_receipts import UnitReceipts
from pipeline.runtime.cluster import Machines
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.storage import StorageFault
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import Unit

_PASSES = 4
_COMMIT_RETRIES = 3
_COMMITS_AT_ONCE = 16
_NO_END = "some of its images were lost, with the process that worked on them"


def run_units(
    units: Iterable[Unit], *, job: LabellingJob, stats: RunStats, on_progress: Callable[[], bool]
) -> bool:
    """Labels and commits the units, in as many passes as it takes, up to `_PASSES`.

    Args:
        stats: is kept up to date.
        on_progress: is called after each receipt; False ends the run after the commits that are
            under way.

    Returns:
        Whether `on_progress` ended the run.
    """
    left = {unit.unit_id: unit for unit in units}
    model = ray.put(dict(job.model_files))
    admission = None if job.deadline is None else _ADMISSION.remote(job.deadline)
    machines = Machines.of_cluster(job.actors)
    stats.take_machines(
        actors=machines.most_actors,
        gpus=machines.most_actors * machines.actor_gpus,
        nodes=machines.num_nodes,
    )
    attempts = ATTEMPT_TRACKER.remote()
    isolation = None
    gpus = UsableGpus(attempts)
    num_passes = 0
    while num_passes < _PASSES + gpus.num_seen:  # a GPU that is left alone ends a pass
        num_passes += 1
        if not gpus.choose():
            if isolation is not None or not gpus.choose(is_last_chance=True):
                break
            isolation = IsolationContext()  # images may be at fault
        ray.get(attempts.start_pass.remote(is_isolated=isolation is not None))
        one_pass = _Pass(
            left,
            job=job,
            model=model,
            admission=admission,
            attempts=attempts,
            stats=stats,
            on_progress=on_progress,
            isolation=isolation,
            gpus_left_alone=len(gpus.left_alone),
        )
        done = one_pass.run()
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in done}
        if not left or one_pass.was_stopped or one_pass.is_shut:
            break
        if isolation is not None:
            suspects = ray.get(attempts.suspects.remote())
            seconds = job.segmenting.segment_seconds
            quarantined = quarantine(
                suspects, segment_seconds=seconds, earlier=isolation.quarantined
            )
            isolation = IsolationContext(quarantined=quarantined)
        elif one_pass.lost_workers and not one_pass.met_gpu_left_alone:
            isolation = IsolationContext()
    gpus.free()
    stats.gpus_left_alone = [each.to_dict() for each in gpus.left_alone]
    if one_pass.is_shut:
        stats.units_left = len(left.keys() - one_pass.begun)
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id in one_pass.begun}
    for unit_id in left:
        stats.faults.setdefault(unit_id, "was not reached")
    return one_pass.was_stopped


class _Pass:
    """Executes the dataset once over the units that are left."""

    def __init__(
        self,
        units: dict[str, Unit],
        *,
        job: LabellingJob,
        model: "ray.ObjectRef[ModelFiles]",
        admission: Any,
        attempts: Any,
        stats: RunStats,
        on_progress: Callable[[], bool],
        isolation: IsolationContext | None = None,
        gpus_left_alone: int = 0,
    ) -> None:
        self._units, self._job, self._stats, self._on_progress = units, job, stats, on_progress
        self._model, self._isolation = model, isolation
        self._admission, self._attempts = admission, attempts
        self._gpus_left_alone = gpus_left_alone
        self._collected = {unit_id: UnitReceipts() for unit_id in units}
        self._commits: dict[Any, str] = {}
        self._done: set[str] = set()
        self.was_stopped = False
        self.is_shut = False
        """Whether the deadline lets no further unit begin."""
        self.begun: set[str] = set()
        """Units that had begun by then."""
        self.lost_workers = False
        """Whether units are undone for another reason than a storage fault."""
        self.met_gpu_left_alone = False
        """Whether an actor started on such a GPU, which ends the pass."""

    def run(self) -> set[str]:
        """Returns the units that this pass committed."""
        dataset = label_dataset(
            self._units.values(),
            job=self._job,
            model=self._model,
            admission=self._admission,
            attempts=self._attempts,
            isolation=self._isolation,
            gpus_left_alone=self._gpus_left_alone,
        )
        for unit_id in self._units:
            self._stats.faults.pop(unit_id, None)  # of the pass before
        try:
            with contextlib.closing(receipts(dataset)) as arriving:
                for receipt in arriving:
                    self._add(receipt)
                    self._finish_commits(at_most=_COMMITS_AT_ONCE)
                    if not self._on_progress():
                        self.was_stopped = True
                        break
                    if self.met_gpu_left_alone:
                        self._mark_lost(receipt["fault"])
                        break
                    if self.is_shut and not self._awaits_receipts():
                        break
            if not (self.was_stopped or self.is_shut):
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
        for unit_id, collected in self._collected.items():
            if unit_id not in self._done:
                self._stats.counts.take_back(collected.counts)
        return self._done

    def _add(self, receipt: dict[str, Any]) -> None:
        unit_id = receipt["unit_id"]
        collected = self._collected[unit_id]
        self._stats.add_retries(Retries(**each) for each in receipt["storage_retries"] or ())
        if unit_id in self._done or collected.is_committing:
            return  # a task that ran twice
        if receipt["fault"] == NOT_BEGUN:
            self._shut()
            return
        if receipt["fault"] == DONE_ELSEWHERE:
            self._done.add(unit_id)
            self._stats.units_elsewhere += 1
            self._stats.faults.pop(unit_id, None)
            self._stats.counts.take_back(collected.counts)
            collected.forget()
            return
        if receipt["fault_kind"] == MISTAKE:
            raise MistakeInTask(f"a task failed on unit {unit_id}:\n{receipt['fault']}")
        if receipt["fault"]:
            self._stats.faults[unit_id] = receipt["fault"]
            self.lost_workers |= receipt["fault_kind"] == LOST
            self.met_gpu_left_alone |= receipt["fault_kind"] == LEFT_ALONE
            return
        counts, errors = collected.add(receipt)
        self._stats.add(counts, errors=errors)
        if collected.is_complete:
            self._stats.faults.pop(unit_id, None)
            collected.is_committing = True
            self._commits[self._commit(unit_id, collected)] = unit_id

    def _commit(self, unit_id: str, collected: "UnitReceipts") -> Any:
        return _commit.remote(
            unit_id,
            parts=collected.parts,
            num_images=collected.num_images,
            table=self._job.table,
            spec=self._job.spec,
        )

    def _finish_commits(self, *, at_most: int) -> None:
        """Notes commits that are over; waits until at most `at_most` are under way."""
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
                unit_id = self._commits.pop(each)
                try:
                    committed, retries = ray.get(each)
                    self._stats.add_retries(retries)
                    self._stats.settle(self._collected[unit_id].counts, committed)
                except (ray.exceptions.RayError, StorageFault) as error:
                    # The commit's process may have ended after the commit.
                    if not false_if_storage_fails(self._job.table.is_done)(unit_id):
                        self._stats.faults[unit_id] = reason(error)
                        continue
                self._done.add(unit_id)
                self._stats.units += 1
                if self._admission is not None:
                    self._admission.note_done.remote(unit_id)
                self._collected[unit_id].forget()

    def _shut(self) -> None:
        if not self.is_shut:
            self.is_shut, self.begun = True, ray.get(self._admission.begun.remote())

    def _awaits_receipts(self) -> bool:
        """Returns whether units that have begun are still without all their receipts."""
        return any(
            not self._collected[unit_id].is_committing and unit_id not in self._stats.faults
            for unit_id in self.begun & self._units.keys()
        )

    def _mark_lost(self, fault: str) -> None:
        """Notes `fault` for all undone units without a fault of their own, as lost to workers."""
        for unit_id in self._units:
            undone = unit_id not in self._done and not self._collected[unit_id].is_committing
            if undone and unit_id not in self._stats.faults:
                self._stats.faults[unit_id] = fault
                self.lost_workers = True


class MistakeInTask(RuntimeError):
    """A task raised an error of our own code; the message has its traceback."""


@ray.remote(num_cpus=0, max_retries=_COMMIT_RETRIES)
def _commit(
    unit_id: str, *, parts: list[str], num_images: int, table: TableStore, spec: TableSpec
) -> tuple[Counts, list[Retries]]:
    committed = commit_unit(unit_id, parts=parts, num_images=num_images, table=table, spec=spec)
    clear_staging(table, unit_id)
    return committed, take_retries()


_ADMISSION = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeadlineAdmission)
