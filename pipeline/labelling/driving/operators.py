"""Builds the Ray Data operators that labelling and evaluation share: tasks to pixels to rows.

Functions here return what they raise as a row, and an `AttemptTracker` counts the processes that
ended over a task (`poison.py`). `ray_dataset.py` and the evaluation's driver add their own
operators.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from pipeline.labelling.driving.unit_queue import NO_UNIT_LEFT, TaskOpener
from pipeline.labelling.failures.gpu_actors import LEFT_ALONE, WorkUnderWay, assigned_gpu
from pipeline.labelling.failures.gpu_errors import is_gpu_error
from pipeline.labelling.failures.gpu_failures import Gpu
from pipeline.labelling.failures.poison import (
    ATTEMPTS,
    ISOLATED_ATTEMPTS,
    LOST,
    AttemptTracker,
    failure,
)
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.reading.unit_loader import block_in_place
from pipeline.labelling.rows import ROWS, image_key
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.cluster import Machines
from pipeline.runtime.inside_ray import map_blocks
from pipeline.runtime.node_groups import NodeGroup
from pipeline.storage import Storage, StorageFault

DONE_ELSEWHERE = "done by a run beside this one"
"""The fault in place of the rows of a unit that another run has committed."""

_TOO_MANY_ATTEMPTS = f"{ATTEMPTS} processes in turn ended while they worked on it"
_STALLED_SECONDS = 900
_CACHED_UNITS = 64

ATTEMPT_TRACKER = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptTracker)


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

        gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
        return Segmenter(
            model_files,
            settings=self.settings,
            num_threads=num_threads,
            gpu_share=min(gpus, 1.0),
            num_whole_instances=self.num_whole_instances,
            storage=self.storage,
        )


def configure_ray_data(*, block_bytes: int, group: NodeGroup | None = None) -> None:
    """Sets the options that all datasets of this process share.

    Args:
        group: the nodes on which tasks and actors run; None for all.
    """
    context = DataContext.get_current()
    if group is not None:
        context.execution_options.label_selector = group.label_selector
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            cpu=group.num_cpus, gpu=group.num_gpus, object_store_memory=group.object_store_bytes
        )
    # Ray joins the blocks that a task yields up to this size; an actor gets one block at once.
    context.target_max_block_size = block_bytes
    context.max_errored_blocks = 0
    context.enable_progress_bars = False
    # A run that makes no progress ends with an error, as when no node has room for an actor.
    context.execution_no_progress_timeout_s = _STALLED_SECONDS
    context.print_on_execution_start = False


def segmented(
    tasks: "ray.data.Dataset",
    *,
    load: Callable[[pa.Table], Iterable[pa.Table]],
    model: "ray.ObjectRef[ModelFiles]",
    factory: SegmenterFactory,
    machines: Machines,
    num_images: int,
    attempts: Any,
    is_isolated: bool = False,
    is_done: Callable[[str], bool] | None = None,
    open_task: TaskOpener | None = None,
    finish: Callable[[pa.Table], pa.Table] | None = None,
) -> "ray.data.Dataset":
    """Adds two operators: `load` turns tasks into blocks of pixels, actors turn blocks into rows.

    Args:
        factory: builds the segmenter of each actor.
        num_images: about how many the tasks have in all.
        attempts: the actor of an `AttemptTracker`; None for attempts without a limit.
        is_isolated: whether each image is a block of its own, and alone on its actor.
        is_done: whether a unit needs no more work; actors ask once for each unit.
        open_task: gives what `load` takes for a task; None where that is the task itself.
        finish: turns the rows of a block into what the actor returns in their place; raises
            nothing.
    """
    loaded = tasks.map_batches(
        BoundedLoad(load=load, attempts=attempts, open_task=open_task).__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=machines.reader_cpus,
    )
    return map_blocks(
        loaded,
        _SegmenterActor,
        fn_constructor_kwargs={
            "model": model,
            "factory": factory,
            "num_threads": machines.actor_threads,
            "attempts": attempts,
            "is_isolated": is_isolated,
            "is_done": is_done,
            "finish": finish,
        },
        compute=ActorPoolStrategy(
            min_size=machines.fewest_actors,
            max_size=machines.most_actors,
            initial_size=machines.first_actors(num_images),
            max_concurrent_calls_per_actor=1 if is_isolated else 2,
            max_tasks_in_flight_per_actor=1 if is_isolated else machines.blocks_ahead,
            enable_true_multi_threading=True,
        ),
        num_cpus=machines.actor_cpus,
        num_gpus=machines.actor_gpus,
    )


class _SegmenterActor:
    """An actor with one segmenter. Errors are rows, since Ray Data drops blocks that raise.

    An error of its GPU ends the process; on a GPU that is left alone there is no segmenter.
    """

    def __init__(
        self,
        *,
        model: "ray.ObjectRef[ModelFiles]",
        factory: SegmenterFactory,
        num_threads: int | None,
        attempts: Any,
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
        model: "ray.ObjectRef[ModelFiles]",
        num_threads: int | None,
    ) -> BlockSegmenter | None:
        """Returns the segmenter; None where the GPU is left alone."""
        if self._gpu and ray.get(self._attempts.is_left_alone.remote(self._gpu)):
            return None
        try:
            return factory(ray.get(model), num_threads=num_threads)
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


@dataclass(frozen=True, kw_only=True)
class BoundedLoad:
    """Loads a task unless too many processes ended over it: Ray itself would retry for ever."""

    load: Callable[[pa.Table], pa.Table | Iterable[pa.Table]]
    attempts: Any
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


def _may_begin(attempts: Any, keys: list[Any], *, at_most: int) -> bool:
    return attempts is None or ray.get(attempts.may_begin.remote(keys, at_most=at_most))


def _note_end(attempts: Any, keys: list[Any], *, is_awaited: bool, gpu: Gpu | None = None) -> None:
    """Notes that work on the keys is over.

    Args:
        is_awaited: waits until it is noted, where one that is lost would quarantine an image: the
            next image may end this process. Elsewhere it would count as one attempt more.
    """
    if attempts is not None:
        noted = attempts.ended.remote(keys, gpu=gpu)
        if is_awaited:
            ray.get(noted)


def receipts(dataset: "ray.data.Dataset") -> Generator[dict[str, Any], None, None]:
    """Executes the dataset and yields the rows of its last operator as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
