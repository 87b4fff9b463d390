"""Executes one pass over units: iterates over receipts, and commits units that are complete.

The receipts come from workers, on Ray (`ray_workers.py`) or of this machine (`local_workers.py`).
A pass runs in the process of the driver, or in one for each group of nodes (`sub_drivers.py`).
Starts without Ray.
"""

import collections
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.labelling.driving.deadline import NOT_BEGUN
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.unit_receipts import UnitReceipts
from pipeline.labelling.driving.workers import (
    DONE_ELSEWHERE,
    NO_UNIT_LEFT,
    false_if_storage_fails,
)
from pipeline.labelling.failures.gpu_work import LEFT_ALONE
from pipeline.labelling.failures.poison import (
    LOST,
    MISTAKE,
    IsolationContext,
    is_of_the_cluster,
    reason,
)
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.storage.retries import Retries

_COMMITS_AT_ONCE = 16
# Each look at the commits under way takes 75 microseconds, and receipts come by the thousand.
_LOOK_AT_COMMITS_SECONDS = 0.05
_NO_END = "some of its images were lost, with the process that worked on them"


class WorkersFailed(Exception):
    """The workers end a pass early; the message says why."""


class CommitFailed(Exception):
    """A commit may not have been made; the message says why."""


class EveryGpuLeftAlone(Exception):
    """There is no GPU left that may work on a pass."""


class Workers(Protocol):
    """The processes that label the units of a pass."""

    admission: RemoteObject | None
    """The `DeadlineAdmission`; None for a run without a deadline."""

    def unit_ids(self) -> Collection[str]:
        """Returns the units that the pass has begun or will begin, as far as it is known."""
        ...

    def receipts(
        self, *, isolation: IsolationContext | None
    ) -> AbstractContextManager[Iterator[Mapping[str, Any]]]:
        """Starts the work; gives its receipts as they come.

        Args:
            isolation: images that end processes, in a pass that looks for them; None in others.

        Raises:
            WorkersFailed, EveryGpuLeftAlone: the pass ends without the rest of its receipts.
        """
        ...

    def start_commit(self, unit_id: str, *, parts: list[str], num_images: int) -> Any:
        """Starts the commit of a unit whose images are all staged."""
        ...

    def ended_commits(self, commits: list[Any], *, at_least: int) -> list[Any]:
        """Returns commits that have ended, after it waited for `at_least` of them."""
        ...

    def committed(self, commit: Any) -> tuple[Counts, list[Retries]]:
        """Returns what a commit that has ended wrote, and its process's retries.

        Raises:
            CommitFailed: it failed, or its process ended.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """The result of a pass over units."""

    done: Collection[str]
    """Units that need no more work."""
    was_stopped: bool = False
    """Whether the run ended the pass."""
    is_shut: bool = False
    """Whether the deadline lets no further unit begin."""
    begun: Collection[str] = ()
    """Units that had begun by then."""
    lost_workers: bool = False
    """Whether units are undone for another reason than a storage fault."""
    met_gpu_left_alone: bool = False
    """Whether an actor started on such a GPU, which ends the pass."""


@dataclass(frozen=True, kw_only=True)
class RunLink:
    """The link between a pass and its run, while the pass is under way."""

    stats: RunStats
    """Is kept up to date."""
    is_to_go_on: Callable[[], bool]
    """Is called after each receipt; False ends the pass after the commits that are under way."""


class UnitPass:
    """Has workers label units, and commits these."""

    def __init__(
        self,
        workers: Workers,
        *,
        job: LabellingJob,
        link: RunLink,
        isolation: IsolationContext | None,
    ) -> None:
        """Takes what `run` needs.

        Args:
            isolation: images that end processes, in a pass that looks for them; None in others.
        """
        self._workers, self._job, self._isolation = workers, job, isolation
        self._stats, self._is_to_go_on = link.stats, link.is_to_go_on
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
        try:
            with self._workers.receipts(isolation=self._isolation) as arriving:
                self._take(arriving)
            if not (self._was_stopped or self._is_shut):
                self._mark_lost(_NO_END)
        except EveryGpuLeftAlone:
            return PassResult(done=(), met_gpu_left_alone=True)
        except MistakeInTask:
            raise
        except WorkersFailed as error:
            self._mark_lost(str(error))
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

    def _take(self, arriving: Iterator[Mapping[str, Any]]) -> None:
        """Takes receipts until there are no more, or no more are needed."""
        for receipt in arriving:
            self._add(receipt)
            self._finish_commits(at_most=_COMMITS_AT_ONCE)
            if not self._is_to_go_on():
                self._was_stopped = True
                return
            if self._gpu_left_alone is not None:
                self._mark_lost(self._gpu_left_alone)
                return
            if self._last_units is not None and not self._awaits_receipts():
                return

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
        if collected.is_complete and collected.num_images is not None:
            self._stats.faults.pop(unit_id, None)
            collected.is_committing = True
            commit = self._workers.start_commit(
                unit_id, parts=collected.parts, num_images=collected.num_images
            )
            self._commits[commit] = unit_id

    def _finish_commits(self, *, at_most: int) -> None:
        """Notes commits that are over, now and then; waits until `at_most` are under way."""
        is_time = time.monotonic() - self._looked_at_commits >= _LOOK_AT_COMMITS_SECONDS
        if not is_time and len(self._commits) <= at_most:
            return
        self._looked_at_commits = time.monotonic()
        while self._commits:
            wait_for = max(0, len(self._commits) - at_most)
            ended = self._workers.ended_commits(list(self._commits), at_least=wait_for)
            if not ended:
                return
            for each in ended:
                self._finish_commit(each, unit_id=self._commits.pop(each))

    def _finish_commit(self, commit: Any, *, unit_id: str) -> None:
        try:
            committed, retries = self._workers.committed(commit)
            self._stats.add_retries(retries)
            self._stats.settle(self._collected[unit_id].counts, committed)
        except CommitFailed as error:
            # The commit's process may have ended after the commit.
            if not false_if_storage_fails(self._job.table.is_done)(unit_id):
                self._stats.faults[unit_id] = str(error)
                return
        self._stats.units += 1
        self._note_done(unit_id)
        if self._workers.admission is not None:
            self._workers.admission.tell("note_done", unit_id)

    def _note_done(self, unit_id: str) -> None:
        self.done[unit_id] = None
        self._stats.faults.pop(unit_id, None)
        # Memory does not grow with the corpus.
        self._collected.pop(unit_id, None)

    def _shut(self) -> None:
        if not self._is_shut:
            assert self._workers.admission is not None
            self._is_shut, self._begun = True, self._workers.admission.ask("begun")
            self._note_last_units()

    def _note_last_units(self) -> None:
        """Notes that no unit begins any more but those that have begun."""
        units = set(self._workers.unit_ids())
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
        for unit_id in self._workers.unit_ids():
            undone = unit_id not in self.done and not self._collected[unit_id].is_committing
            if undone and unit_id not in self._stats.faults:
                self._stats.faults[unit_id] = fault
                self._lost_workers = True


class MistakeInTask(RuntimeError):
    """A task raised an error of our own code; the message has its traceback."""
