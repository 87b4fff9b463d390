"""The flow: units of the plan through readers, actors and stagers to committed units.

Ray Data moves the rows: one task reads a unit and yields blocks of pixels, actors turn blocks into
rows, small tasks stage them and give receipts. The driver counts receipts, and starts a commit as
soon as those of a unit are complete. What fails is tried again in another pass, a bounded number of
times, the later ones in isolation (`poison.py`); what stays undone is named in the outcome.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.exceptions import ExecutionTimeoutError

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import RECEIPT, Stager, clear_staging, commit_unit, fault_receipt
from pipeline.labelling.deadline import NOT_BEGUN, DeadlineAdmission
from pipeline.labelling.loading import UnitLoader, in_place_of
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.operators import (
    ATTEMPT_TRACKER,
    DONE_ELSEWHERE,
    configure_ray_data,
    make_segmenter,
    receipts,
    segmented,
    unless_storage_fails,
)
from pipeline.labelling.poison import (
    LOST,
    MISTAKE,
    IsolationContext,
    failure,
    is_of_the_cluster,
    quarantine,
    reason,
)
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import Machines
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.skips import SkipCounts
from pipeline.storage import StorageFault
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import Unit

_PASSES = 4
_COMMIT_RETRIES = 3
_COMMITS_AT_ONCE = 16
_IMAGE_BYTES = 100_000  # of the usual photograph
_NO_END = "a process that worked on it was lost: not all of its images came back"


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that a worker needs to know, and that all workers share."""

    table: TableStore
    spec: TableSpec
    run_id: str
    reading: ReadSettings
    segmenting: SegmentSettings
    actors: ActorSettings
    processor: MaskFormerImageProcessor
    model_files: ModelFiles
    deadline: float | None = None
    """Seconds since the epoch: no unit begins that would not be done by then."""


def run_units(
    units: Iterable[Unit], *, work: Work, stats: RunStats, on_progress: Callable[[], bool]
) -> bool:
    """Works on the units until all are done or the passes are used up; whether it was stopped.

    Args:
        stats: is kept up to date.
        on_progress: called whenever something was done; False ends the run after the commits that
            are under way.
    """
    left = {unit.unit_id: unit for unit in units}
    model = ray.put(dict(work.model_files))
    admission = None if work.deadline is None else _ADMISSION.remote(work.deadline)
    machines = Machines.of_cluster(work.actors)
    stats.take_machines(
        actors=machines.most_actors,
        gpus=machines.most_actors * machines.actor_gpus,
        nodes=machines.num_nodes,
    )
    attempts = ATTEMPT_TRACKER.remote()
    isolation = None
    for _ in range(_PASSES):
        ray.get(attempts.start_pass.remote())
        one_pass = _Pass(
            left,
            work=work,
            model=model,
            admission=admission,
            attempts=attempts,
            stats=stats,
            on_progress=on_progress,
            isolation=isolation,
        )
        done = one_pass.run()
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in done}
        if not left or one_pass.was_stopped or one_pass.is_shut:
            break
        if isolation is not None:
            suspects = ray.get(attempts.suspects.remote())
            seconds = work.segmenting.segment_seconds
            quarantined = quarantine(
                suspects, segment_seconds=seconds, earlier=isolation.quarantined
            )
            isolation = IsolationContext(quarantined=quarantined)
        elif one_pass.lost_workers:
            isolation = IsolationContext()
    if one_pass.is_shut:
        stats.units_left = len(left.keys() - one_pass.begun)
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id in one_pass.begun}
    for unit_id in left:
        stats.faults.setdefault(unit_id, "was not reached")
    return one_pass.was_stopped


class _Pass:
    """One execution of the dataset over the units that are left."""

    def __init__(
        self,
        units: dict[str, Unit],
        *,
        work: Work,
        model: "ray.ObjectRef[ModelFiles]",
        admission: Any,
        attempts: Any,
        stats: RunStats,
        on_progress: Callable[[], bool],
        isolation: IsolationContext | None = None,
    ) -> None:
        self._units, self._work, self._stats, self._on_progress = units, work, stats, on_progress
        self._model, self._admission, self._attempts, self._isolation = (
            model,
            admission,
            attempts,
            isolation,
        )
        self._collected = {unit_id: _Collected() for unit_id in units}
        self._commits: dict[Any, str] = {}
        self._done: set[str] = set()
        self.was_stopped = False
        self.is_shut = False
        """The deadline lets no further unit begin."""
        self.begun: set[str] = set()
        """Units that have begun when that was found."""
        self.lost_workers = False
        """Whether units are undone for no fault of storage."""

    def run(self) -> set[str]:
        """The units that this pass committed."""
        dataset = label_dataset(
            self._units.values(),
            work=self._work,
            model=self._model,
            admission=self._admission,
            attempts=self._attempts,
            isolation=self._isolation,
        )
        for unit_id in self._units:
            self._stats.faults.pop(unit_id, None)  # that of the pass before
        try:
            with contextlib.closing(receipts(dataset)) as arriving:
                for receipt in arriving:
                    self._take(receipt)
                    self._finish_commits(at_most=_COMMITS_AT_ONCE)
                    if not self._on_progress():
                        self.was_stopped = True
                        break
                    if self.is_shut and not self._under_way():
                        break
            if not (self.was_stopped or self.is_shut):
                self._blame(_NO_END)
        except MistakeInTask:
            raise
        except ExecutionTimeoutError as error:
            self._blame(reason(error))
        except Exception as error:  # Ray Data wraps what its workers raise in classes of its own
            if not is_of_the_cluster(error.__cause__ or error) and not is_of_the_cluster(error):
                raise
            self._blame(reason(error.__cause__ or error))
        self._finish_commits(at_most=0)
        for unit_id, collected in self._collected.items():
            if unit_id not in self._done:
                self._stats.counts.take_back(collected.counts)
        return self._done

    def _take(self, receipt: dict[str, Any]) -> None:
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
            return
        counts, errors = collected.add(receipt)
        self._stats.add(counts, errors=errors)
        if collected.is_complete:
            self._stats.faults.pop(unit_id, None)
            collected.is_committing = True
            self._commits[self._commit(unit_id, collected)] = unit_id

    def _commit(self, unit_id: str, collected: "_Collected") -> Any:
        return _commit.remote(
            unit_id,
            parts=collected.parts,
            num_images=collected.num_images,
            table=self._work.table,
            spec=self._work.spec,
        )

    def _finish_commits(self, *, at_most: int) -> None:
        """Takes the results of commits that are over; waits until at most so many go on."""
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
                    self._stats.add_retries(ray.get(each))
                except (ray.exceptions.RayError, StorageFault) as error:
                    # Its process may have ended after the commit.
                    if not unless_storage_fails(self._work.table.is_done)(unit_id):
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

    def _under_way(self) -> bool:
        """Whether more receipts are to come of units that have begun."""
        return any(
            not self._collected[unit_id].is_committing and unit_id not in self._stats.faults
            for unit_id in self.begun & self._units.keys()
        )

    def _blame(self, fault: str) -> None:
        """Says of all units that are undone for no fault of storage that workers were lost."""
        for unit_id in self._units:
            undone = unit_id not in self._done and not self._collected[unit_id].is_committing
            if undone and unit_id not in self._stats.faults:
                self._stats.faults[unit_id] = fault
                self.lost_workers = True


class MistakeInTask(RuntimeError):
    """A task failed by an error in our own code; the message has its traceback."""


@dataclass
class _Collected:
    """The receipts of one unit so far."""

    counts: Counts = field(default_factory=Counts)
    positions: set[int] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    num_images: int | None = None
    is_committing: bool = False

    @property
    def is_complete(self) -> bool:
        return self.num_images is not None and len(self.positions) == self.num_images

    def add(self, receipt: dict[str, Any]) -> tuple[Counts, list[dict[str, Any]]]:
        """Takes a receipt; what it tells that no other has, and the images that failed."""
        new = set(receipt["positions"]) - self.positions
        self.positions |= new
        if receipt["part"] is not None and receipt["part"] not in self.parts:
            self.parts.append(receipt["part"])
        skipped = SkipCounts()
        if receipt["num_images"] is not None and self.num_images is None:
            self.num_images = receipt["num_images"]
            skipped.add_all(receipt["skipped"] or ())
        errors = [error for error in receipt["errors"] if error["position"] in new]
        # A part that overlaps another comes from a task that ran twice: its sums are near enough.
        share = len(new) / max(1, len(receipt["positions"]))
        counts = Counts(
            images=len(new),
            segments=round(share * (receipt["num_segments"] or 0)),
            bytes_read=round(share * (receipt["bytes_read"] or 0)),
            errors=collections.Counter(error["error_class"] for error in errors),
            skipped=skipped,
        )
        self.counts.add(counts)
        return counts, errors

    def forget(self) -> None:
        """Drops what a committed unit needs no more: memory must not grow with the corpus."""
        self.positions, self.parts, self.counts = set(), [], Counts()


@ray.remote(num_cpus=0, max_retries=_COMMIT_RETRIES)
def _commit(
    unit_id: str, *, parts: list[str], num_images: int, table: TableStore, spec: TableSpec
) -> list[Retries]:
    commit_unit(unit_id, parts=parts, num_images=num_images, table=table, spec=spec)
    clear_staging(table, unit_id)
    return take_retries()


_ADMISSION = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeadlineAdmission)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Loads a unit if no run beside this one has done it, and the admission lets it begin."""

    load: UnitLoader
    table: TableStore
    admission: Any

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        unit_id = unit["unit_id"][0].as_py()
        try:
            if self.table.is_done(unit_id):
                yield in_place_of(unit_id, DONE_ELSEWHERE)
            elif self.admission is None or ray.get(self.admission.admits.remote(unit_id)):
                yield from self.load(unit)
            else:
                yield in_place_of(unit_id, NOT_BEGUN)
        except StorageFault as fault:
            yield in_place_of(unit_id, str(fault))
        except Exception as error:  # given back, since Ray Data drops the blocks of what raises
            kind, said = failure(error)
            yield in_place_of(unit_id, said, kind=kind)


@dataclass(frozen=True, kw_only=True)
class _Staging:
    """Stages rows; an error is a receipt, since Ray Data drops the blocks of what raises."""

    stage: Stager

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            return self.stage(rows)
        except Exception as error:
            kind, said = failure(error)
            receipt = fault_receipt(rows["unit_id"][0].as_py(), said, kind=kind)
            return pa.Table.from_pylist([receipt], schema=RECEIPT)


def label_dataset(
    units: Iterable[Unit],
    *,
    work: Work,
    model: "ray.ObjectRef[ModelFiles]",
    admission: Any = None,
    attempts: Any = None,
    isolation: IsolationContext | None = None,
) -> "ray.data.Dataset":
    """The operators: units, then pixels, then rows, then receipts.

    Args:
        admission: the actor that lets units begin; None lets all.
        attempts: the actor of an `AttemptTracker`; None lets work begin however often.
        isolation: what is known of images that end processes, where any is suspected.
    """
    units = list(units)
    machines = Machines.of_cluster(work.actors)
    block_bytes = machines.block_bytes(work.processor) if isolation is None else 1
    configure_ray_data(block_bytes=block_bytes)
    # Our functions raise nothing; what Ray itself loses is undone after the pass.
    DataContext.get_current().max_errored_blocks = -1
    loader = UnitLoader(
        storage=work.table.storage,
        reading=work.reading,
        processor=work.processor,
        block_bytes=block_bytes,
        is_guarded=isolation is not None,
        quarantined={} if isolation is None else isolation.quarantined,
    )
    return segmented(
        ray.data.from_arrow([unit_table(unit) for unit in units]),
        load=_Reader(load=loader, table=work.table, admission=admission).__call__,
        model=model,
        make=functools.partial(make_segmenter, settings=work.segmenting),
        machines=machines,
        num_images=sum(unit.num_images or unit.num_bytes // _IMAGE_BYTES for unit in units),
        attempts=attempts,
        is_isolated=isolation is not None,
        is_done=work.table.is_done,
    ).map_batches(
        _Staging(stage=Stager(table=work.table, run_id=work.run_id)).__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=machines.stager_cpus,
    )


def unit_table(unit: Unit) -> pa.Table:
    return unit.table()
