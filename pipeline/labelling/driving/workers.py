"""The work of a run's processes: units to pixels in readers, pixels to rows in segmenters.

Processes of Ray (`operators.py`) and children of the driver (`local_workers.py`) call the same
functions. These return what they raise as a row, and an `AttemptTracker` counts the processes that
ended over a task (`poison.py`). Starts without Ray and without torch.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipeline.labelling.commit import RECEIPT, Stager, fault_receipt
from pipeline.labelling.driving.deadline import NOT_BEGUN
from pipeline.labelling.failures.gpu_errors import is_gpu_error
from pipeline.labelling.failures.gpu_failures import Gpu
from pipeline.labelling.failures.gpu_work import (
    LEFT_ALONE,
    WorkUnderWay,
    assigned_gpu,
    assigned_gpu_share,
)
from pipeline.labelling.failures.poison import ATTEMPTS, ISOLATED_ATTEMPTS, LOST, failure
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.reading.unit_loader import block_in_place
from pipeline.labelling.rows import ROWS, image_key
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.storage import Storage, StorageFault
from pipeline.table.store import TableStore

NO_UNIT_LEFT = "no unit is left to begin"
"""The fault in place of the images of a unit, where a ticket came to an empty queue."""
DONE_ELSEWHERE = "done by a run beside this one"
"""The fault in place of the rows of a unit that another run has committed."""

_TOO_MANY_ATTEMPTS = f"{ATTEMPTS} processes in turn ended while they worked on it"
_CACHED_UNITS = 64

LoadUnit = Callable[[pa.Table], Iterator[pa.Table]]
"""Reads the unit with these rows of the plan, and yields it in blocks of pixels."""


class TaskOpener(Protocol):
    """Returns the rows of a unit for the row that a task has; None where no unit is left."""

    def __call__(self, task: pa.Table) -> pa.Table | None: ...


class BlockSegmenter(Protocol):
    """Turns blocks of pixels into rows of segments; `Segmenter` is one."""

    def __call__(self, block: pa.Table) -> pa.Table: ...


class SegmenterFactory(Protocol):
    """Builds a segmenter in an actor's process; travels there, and imports torch only there."""

    def __call__(self, model_files: ModelFiles, *, num_threads: int | None) -> BlockSegmenter: ...


@dataclass(frozen=True, kw_only=True)
class WholeImageFactory:
    """Builds a `Segmenter` that takes its share of the process's GPU."""

    settings: SegmentSettings
    num_whole_instances: int | None = None
    storage: Storage | None = None

    def __call__(self, model_files: ModelFiles, *, num_threads: int | None) -> BlockSegmenter:
        from pipeline.labelling.segmenting.segmenter import Segmenter

        return Segmenter(
            model_files,
            settings=self.settings,
            num_threads=num_threads,
            gpu_share=assigned_gpu_share(),
            num_whole_instances=self.num_whole_instances,
            storage=self.storage,
        )


@dataclass(frozen=True, kw_only=True)
class UnitReader:
    """Loads a unit if no other run has committed it and the admission lets it begin."""

    load: LoadUnit
    table: TableStore
    admission: RemoteObject | None
    """The `DeadlineAdmission`; None for a run without a deadline."""

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        unit_id = unit["unit_id"][0].as_py()
        try:
            if self.table.is_done(unit_id):
                yield block_in_place(unit_id, DONE_ELSEWHERE)
            elif self.admission is None or self.admission.ask("admits", unit_id):
                yield from self.load(unit)
            else:
                yield block_in_place(unit_id, NOT_BEGUN)
        except StorageFault as fault:
            yield block_in_place(unit_id, str(fault))
        except Exception as error:  # a row, since Ray Data drops blocks that raise
            kind, message = failure(error)
            yield block_in_place(unit_id, message, kind=kind)


@dataclass(frozen=True, kw_only=True)
class RowStaging:
    """Stages rows. Errors are receipts, since Ray Data drops blocks that raise."""

    stage: Stager

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            return self.stage(rows)
        except Exception as error:
            kind, message = failure(error)
            receipt = fault_receipt(rows["unit_id"][0].as_py(), message, kind=kind)
            return pa.Table.from_pylist([receipt], schema=RECEIPT)


@dataclass(frozen=True, kw_only=True)
class BoundedLoad:
    """Loads a task unless too many processes ended over it: Ray itself would retry for ever."""

    load: Callable[[pa.Table], pa.Table | Iterable[pa.Table]]
    attempts: RemoteObject | None
    open_task: TaskOpener | None = None

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        if self.open_task is None:
            yield from self._loaded(task)
            return
        try:
            opened = self.open_task(task)
        except Exception as error:  # a row, since Ray Data drops blocks that raise
            kind, message = failure(error)
            yield block_in_place("", message, kind=kind)
            return
        if opened is None:
            yield block_in_place("", NO_UNIT_LEFT)
        else:
            yield from self._loaded(opened)

    def _loaded(self, task: pa.Table) -> Iterator[pa.Table]:
        keys = [repr(task.slice(0, 1).to_pylist())]
        if not _may_begin(self.attempts, keys, at_most=ATTEMPTS):
            unit_id = task["unit_id"][0].as_py() if "unit_id" in task.column_names else ""
            yield block_in_place(unit_id, _TOO_MANY_ATTEMPTS, kind=LOST)
            return
        loaded = self.load(task)
        yield from [loaded] if isinstance(loaded, pa.Table) else loaded
        _note_end(self.attempts, keys, is_awaited=False)


class SegmenterActor:
    """An actor with one segmenter. Errors are rows, since Ray Data drops blocks that raise.

    An error of its GPU ends the process; on a GPU that is left alone there is no segmenter.
    """

    def __init__(
        self,
        *,
        model: Callable[[], ModelFiles],
        factory: SegmenterFactory,
        num_threads: int | None,
        attempts: RemoteObject | None,
        is_isolated: bool,
        is_done: Callable[[str], bool] | None,
        finish: Callable[[pa.Table], pa.Table] | None,
    ) -> None:
        self._attempts, self._is_isolated = attempts, is_isolated
        self._gpu = None if attempts is None else assigned_gpu()
        self._work = WorkUnderWay(attempts=attempts, gpu=self._gpu)
        self._segmenter = self._made_by(factory, model=model, num_threads=num_threads)
        self._finish = finish
        self._is_done = is_done and functools.lru_cache(_CACHED_UNITS)(
            false_if_storage_fails(is_done)
        )

    def _made_by(
        self,
        factory: SegmenterFactory,
        *,
        model: Callable[[], ModelFiles],
        num_threads: int | None,
    ) -> BlockSegmenter | None:
        """Returns the segmenter; None where the GPU is left alone."""
        if self._gpu and self._attempts and self._attempts.ask("is_left_alone", self._gpu):
            return None
        try:
            return factory(model(), num_threads=num_threads)
        except RuntimeError as error:
            if self._gpu and is_gpu_error(error):
                self._work.end_process(error)
            raise

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = self._rows(block)
        return rows if self._finish is None else self._finish(rows)

    def _rows(self, block: pa.Table) -> pa.Table:
        unit_id = block["unit_id"][0].as_py()
        if self._segmenter is None:
            return _row_in_place(unit_id, f"{self._gpu} is left alone", kind=LEFT_ALONE)
        try:
            if unit_id and self._is_done and self._is_done(unit_id):
                return _row_in_place(unit_id, DONE_ELSEWHERE, kind="fault")
            keys = self._keys(block)
            at_most = ISOLATED_ATTEMPTS if self._is_isolated else ATTEMPTS
            if not _may_begin(self._attempts, keys, at_most=at_most):
                return _row_in_place(unit_id, _TOO_MANY_ATTEMPTS, kind=LOST)
            with self._work.on(keys):
                rows = self._segmenter(block)
            used_gpu = block["pixels_height"].null_count < block.num_rows
            _note_end(
                self._attempts,
                keys,
                is_awaited=self._is_isolated,
                gpu=self._gpu if used_gpu else None,
            )
        except Exception as error:
            kind, message = failure(error)
            return _row_in_place(unit_id, message, kind=kind)
        return rows

    def _keys(self, block: pa.Table) -> list[Any]:
        """Returns what attempts are counted for: the block, or each image in isolation."""
        rows = block.select(["unit_id", "position", "kind"])
        if not self._is_isolated:
            return [repr(rows.slice(0, 1).to_pylist())]
        return [image_key(row) for row in rows.to_pylist() if row["kind"] == "image"]


def _row_in_place(unit_id: str, message: str, *, kind: str) -> pa.Table:
    row = {"unit_id": unit_id, "kind": kind, "error_message": message}
    return pa.Table.from_pylist([row], schema=ROWS)


def false_if_storage_fails(is_done: Callable[[str], bool]) -> Callable[[str], bool]:
    """Wraps `is_done` to answer False where the storage does not answer."""

    def asked(unit_id: str) -> bool:
        with contextlib.suppress(StorageFault):
            return is_done(unit_id)
        return False

    return asked


def _may_begin(attempts: RemoteObject | None, keys: list[Any], *, at_most: int) -> bool:
    return attempts is None or attempts.ask("may_begin", keys, at_most=at_most)


def _note_end(
    attempts: RemoteObject | None, keys: list[Any], *, is_awaited: bool, gpu: Gpu | None = None
) -> None:
    """Notes that work on the keys is over.

    Args:
        is_awaited: waits until it is noted, where one that is lost would quarantine an image: the
            next image may end this process. Elsewhere it would count as one attempt more.
    """
    if attempts is not None:
        note = attempts.ask if is_awaited else attempts.tell
        note("ended", keys, gpu=gpu)
