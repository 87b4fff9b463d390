"""The flow: units of the plan through readers, actors and stagers to committed units.

Ray Data moves the rows: one task reads a unit and yields blocks of pixels, actors turn blocks into
rows, small tasks stage them and give receipts. The driver counts receipts, and starts a commit as
soon as those of a unit are complete. What fails is tried again in another pass, a bounded number of
times, the later ones with care (`poison.py`); what stays undone is named in the outcome.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import Stager, clear_staging, commit_unit
from pipeline.labelling.deadline import NOT_BEGUN, DeadlineAdmission
from pipeline.labelling.loading import UnitLoader, in_place_of
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.poison import (
    Care,
    Witness,
    condemn,
    deaths,
    ends_a_task_only,
    root_cause,
)
from pipeline.labelling.rows import ROWS
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.cluster import ActorSettings, Machines
from pipeline.runtime.passed_over import PassedOver
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.storage import StorageFault
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import Unit

_PASSES = 4
ATTEMPTS = 3
# An actor outlives so many of the images that end it.
_ACTOR_RESTARTS = 100
_COMMITS_AT_ONCE = 16
_STALLED_SECONDS = 900
_UNITS_AT_ONCE = 64
_IMAGE_BYTES = 100_000  # of the usual photograph
_DONE_ELSEWHERE = "done by a run beside this one"

MakeSegmenter: TypeAlias = Callable[..., Callable[[pa.Table], pa.Table]]


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
    care = None
    for _ in range(_PASSES):
        one_pass = _Pass(
            left,
            work=work,
            model=model,
            admission=admission,
            stats=stats,
            on_progress=on_progress,
            care=care,
        )
        done = one_pass.run()
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in done}
        if not left or one_pass.was_stopped or one_pass.is_shut:
            break
        if care is not None:
            suspects = ray.get(care.witness.suspects.remote())
            seconds = work.segmenting.segment_seconds
            care = replace(care, condemned=condemn(suspects, segment_seconds=seconds))
        elif one_pass.lost_workers:
            care = Care(witness=_WITNESS.remote())
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
        stats: RunStats,
        on_progress: Callable[[], bool],
        care: Care | None = None,
    ) -> None:
        self._units, self._work, self._stats, self._on_progress = units, work, stats, on_progress
        self._model, self._admission, self._care = model, admission, care
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
            care=self._care,
        )
        for unit_id in self._units:
            self._stats.faults.pop(unit_id, None)  # that of the pass before
        try:
            with deaths() as died, contextlib.closing(receipts(dataset)) as arriving:
                for receipt in arriving:
                    self._take(receipt)
                    self._finish_commits(at_most=_COMMITS_AT_ONCE)
                    if not self._on_progress():
                        self.was_stopped = True
                        break
                    if self.is_shut and not self._under_way():
                        break
            if died and not self.was_stopped:
                self._blame(died[-1])
        except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
            self._blame(error)
        except Exception as error:  # Ray Data wraps what its workers raise in classes of its own
            if not ends_a_task_only(error.__cause__ or error):
                raise
            self._blame(error)
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
        if receipt["fault"] == _DONE_ELSEWHERE:
            self._done.add(unit_id)
            self._stats.units_elsewhere += 1
            self._stats.faults.pop(unit_id, None)
            self._stats.counts.take_back(collected.counts)
            collected.forget()
            return
        if receipt["fault"]:
            self._stats.faults[unit_id] = receipt["fault"]
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
                    if not _quietly(self._work.table.is_done)(unit_id):
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

    def _blame(self, error: BaseException) -> None:
        for unit_id in self._units:
            undone = unit_id not in self._done and not self._collected[unit_id].is_committing
            if undone and unit_id not in self._stats.faults:
                self._stats.faults[unit_id] = reason(error)
                self.lost_workers = True


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
        passed_over = PassedOver()
        if receipt["num_images"] is not None and self.num_images is None:
            self.num_images = receipt["num_images"]
            passed_over.add_all(receipt["passed_over"] or ())
        errors = [error for error in receipt["errors"] if error["position"] in new]
        # A part that overlaps another comes from a task that ran twice: its sums are near enough.
        share = len(new) / max(1, len(receipt["positions"]))
        counts = Counts(
            images=len(new),
            segments=round(share * (receipt["num_segments"] or 0)),
            bytes_read=round(share * (receipt["bytes_read"] or 0)),
            errors=collections.Counter(error["error_class"] for error in errors),
            passed_over=passed_over,
        )
        self.counts.add(counts)
        return counts, errors

    def forget(self) -> None:
        """Drops what a committed unit needs no more: memory must not grow with the corpus."""
        self.positions, self.parts, self.counts = set(), [], Counts()


@ray.remote(num_cpus=0, max_retries=ATTEMPTS)
def _commit(
    unit_id: str, *, parts: list[str], num_images: int, table: TableStore, spec: TableSpec
) -> list[Retries]:
    commit_unit(unit_id, parts=parts, num_images=num_images, table=table, spec=spec)
    clear_staging(table, unit_id)
    return take_retries()


_ADMISSION = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(DeadlineAdmission)
_WITNESS = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Witness)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Loads a unit if no run beside this one has done it, and the admission lets it begin."""

    load: UnitLoader
    table: TableStore
    admission: Any

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        unit_id = unit["unit_id"][0].as_py()
        try:
            is_done = self.table.is_done(unit_id)
        except StorageFault as fault:
            yield in_place_of(unit_id, str(fault))
            return
        if is_done:
            yield in_place_of(unit_id, _DONE_ELSEWHERE)
        elif self.admission is None or ray.get(self.admission.admits.remote(unit_id)):
            yield from self.load(unit)
        else:
            yield in_place_of(unit_id, NOT_BEGUN)


def label_dataset(
    units: Iterable[Unit],
    *,
    work: Work,
    model: "ray.ObjectRef[ModelFiles]",
    admission: Any = None,
    care: Care | None = None,
) -> "ray.data.Dataset":
    """The operators: units, then pixels, then rows, then receipts.

    Args:
        admission: the actor that lets units begin; None lets all.
        care: what is known of images that end processes, where any is suspected.
    """
    units = list(units)
    machines = Machines.of_cluster(work.actors)
    block_bytes = machines.block_bytes(work.processor) if care is None else 1
    configure_ray_data(block_bytes=block_bytes)
    DataContext.get_current().max_errored_blocks = -1  # `deaths` judges them
    loader = UnitLoader(
        storage=work.table.storage,
        reading=work.reading,
        processor=work.processor,
        block_bytes=block_bytes,
        is_guarded=care is not None,
        condemned={} if care is None else care.condemned,
    )
    return segmented(
        ray.data.from_arrow([unit_table(unit) for unit in units]),
        load=_Reader(load=loader, table=work.table, admission=admission).__call__,
        model=model,
        make=functools.partial(make_segmenter, settings=work.segmenting),
        machines=machines,
        num_images=sum(unit.num_images or unit.num_bytes // _IMAGE_BYTES for unit in units),
        witness=None if care is None else care.witness,
        is_done=work.table.is_done,
    ).map_batches(
        Stager(table=work.table, run_id=work.run_id).__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=machines.stager_cpus,
        max_retries=ATTEMPTS,
    )


def configure_ray_data(*, block_bytes: int) -> None:
    """Sets what all datasets of this process share."""
    context = DataContext.get_current()
    # Ray joins what a task yields up to this size: a block is what an actor gets at once.
    context.target_max_block_size = block_bytes
    context.max_errored_blocks = 0
    context.enable_progress_bars = False
    # Where nothing moves any more, as when no node is left for an actor, the run has to say so.
    context.execution_no_progress_timeout_s = _STALLED_SECONDS
    context.print_on_execution_start = False


def segmented(
    tasks: "ray.data.Dataset",
    *,
    load: Callable[[pa.Table], Iterable[pa.Table]],
    model: "ray.ObjectRef[ModelFiles]",
    make: MakeSegmenter,
    machines: Machines,
    num_images: int,
    witness: Any = None,
    is_done: Callable[[str], bool] | None = None,
) -> "ray.data.Dataset":
    """Two operators: `load` makes blocks of pixels of each task, actors make rows of blocks.

    Args:
        make: is called on each actor, with `model_files` and `num_threads`, for what makes rows.
        num_images: about how many the tasks have in all.
        witness: the actor that is told of each image, for blocks of one.
        is_done: whether there is nothing to do any more for a unit; actors look once for each.
    """
    return tasks.map_batches(
        load,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=machines.reader_cpus,
        max_retries=ATTEMPTS,
    ).map_batches_internal(  # as `map_batches`, which wants GPUs to have blocks cut anew
        _SegmenterActor,
        fn_constructor_kwargs={
            "model": model,
            "make": make,
            "num_threads": machines.actor_threads,
            "witness": witness,
            "is_done": is_done,
        },
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=machines.fewest_actors,
            max_size=machines.most_actors,
            initial_size=machines.first_actors(num_images),
            # With a witness nothing else is on an actor that ends.
            max_concurrent_calls_per_actor=2 if witness is None else 1,
            max_tasks_in_flight_per_actor=4 if witness is None else 1,
            enable_true_multi_threading=True,
        ),
        num_cpus=machines.actor_cpus,
        num_gpus=machines.actor_gpus,
        max_restarts=_ACTOR_RESTARTS,
        max_task_retries=ATTEMPTS if witness is None else 1,
    )


class _SegmenterActor:
    """Where a segmenter lives."""

    def __init__(
        self,
        *,
        model: "ray.ObjectRef[ModelFiles]",
        make: MakeSegmenter,
        num_threads: int | None,
        witness: Any,
        is_done: Callable[[str], bool] | None,
    ) -> None:
        self._segmenter = make(model_files=lambda: ray.get(model), num_threads=num_threads)
        self._witness = witness
        self._is_done = is_done and functools.lru_cache(_UNITS_AT_ONCE)(_quietly(is_done))

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._is_done and self._is_done(unit_id := block["unit_id"][0].as_py()):
            row = {"unit_id": unit_id, "kind": "fault", "error_message": _DONE_ELSEWHERE}
            return pa.Table.from_pylist([row], schema=ROWS)
        if self._witness is None:
            return self._segmenter(block)
        places = [
            (row["unit_id"], row["position"])
            for row in block.select(["unit_id", "position", "kind"]).to_pylist()
            if row["kind"] == "image"
        ]
        ray.get([self._witness.begins.remote(*place) for place in places])
        rows = self._segmenter(block)
        # Waited for: the next image may end this process with what it has still to say.
        ray.get([self._witness.ended.remote(*place) for place in places])
        return rows


def _quietly(is_done: Callable[[str], bool]) -> Callable[[str], bool]:
    """No, where the storage does not say."""

    def asked(unit_id: str) -> bool:
        with contextlib.suppress(StorageFault):
            return is_done(unit_id)
        return False

    return asked


def make_segmenter(**options: Any) -> Callable[[pa.Table], pa.Table]:
    """A `Segmenter` within what the process has of a GPU; imports torch in that process alone."""
    from pipeline.labelling.segmenting import Segmenter

    gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
    return Segmenter(**options, gpu_share=min(gpus, 1.0))


def unit_table(unit: Unit) -> pa.Table:
    return unit.table()


def receipts(dataset: "ray.data.Dataset") -> Generator[dict[str, Any], None, None]:
    """Executes the dataset; the rows of its last operator, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def reason(error: BaseException) -> str:
    """What failed, in one line."""
    cause = root_cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1][:300] if lines else ''}"
