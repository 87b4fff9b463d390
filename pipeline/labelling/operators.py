"""The operators that labelling and evaluation share: tasks to pixels to rows, on Ray Data.

What a function here raises is given back as a row, and what ended the process it ran in is counted
by an `AttemptTracker` (`poison.py`). `flow.py` and the evaluation's flow add their own operators.
"""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.labelling.loading import in_place_of
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.poison import (
    ATTEMPTS,
    ISOLATED_ATTEMPTS,
    LOST,
    AttemptTracker,
    failure,
)
from pipeline.labelling.rows import ROWS
from pipeline.runtime.cluster import Machines
from pipeline.runtime.inside_ray import map_blocks
from pipeline.storage import StorageFault

DONE_ELSEWHERE = "done by a run beside this one"
"""The fault in place of a unit's rows, where there is nothing left to do for it."""

_ENDED_OFTEN = "processes that worked on it ended, several in turn"
_STALLED_SECONDS = 900
_UNITS_AT_ONCE = 64

MakeSegmenter: TypeAlias = Callable[..., Callable[[pa.Table], pa.Table]]

ATTEMPT_TRACKER = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptTracker)


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
    attempts: Any,
    is_isolated: bool = False,
    is_done: Callable[[str], bool] | None = None,
) -> "ray.data.Dataset":
    """Two operators: `load` makes blocks of pixels of each task, actors make rows of blocks.

    Args:
        make: is called on each actor, with `model_files` and `num_threads`, for what makes rows.
        num_images: about how many the tasks have in all.
        attempts: the actor of an `AttemptTracker`; None lets work begin however often.
        is_isolated: whether each image is a block of its own, and alone on its actor.
        is_done: whether there is nothing to do any more for a unit; actors look once for each.
    """
    loaded = tasks.map_batches(
        BoundedLoad(load=load, attempts=attempts).__call__,
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
            "make": make,
            "num_threads": machines.actor_threads,
            "attempts": attempts,
            "is_isolated": is_isolated,
            "is_done": is_done,
        },
        compute=ActorPoolStrategy(
            min_size=machines.fewest_actors,
            max_size=machines.most_actors,
            initial_size=machines.first_actors(num_images),
            max_concurrent_calls_per_actor=1 if is_isolated else 2,
            max_tasks_in_flight_per_actor=1 if is_isolated else 4,
            enable_true_multi_threading=True,
        ),
        num_cpus=machines.actor_cpus,
        num_gpus=machines.actor_gpus,
    )


class _SegmenterActor:
    """Where a segmenter lives."""

    def __init__(
        self,
        *,
        model: "ray.ObjectRef[ModelFiles]",
        make: MakeSegmenter,
        num_threads: int | None,
        attempts: Any,
        is_isolated: bool,
        is_done: Callable[[str], bool] | None,
    ) -> None:
        self._segmenter = make(model_files=lambda: ray.get(model), num_threads=num_threads)
        self._attempts, self._is_isolated = attempts, is_isolated
        self._is_done = is_done and functools.lru_cache(_UNITS_AT_ONCE)(
            unless_storage_fails(is_done)
        )

    def __call__(self, block: pa.Table) -> pa.Table:
        unit_id = block["unit_id"][0].as_py()
        try:
            if self._is_done and self._is_done(unit_id):
                return _row_in_place(unit_id, "fault", DONE_ELSEWHERE)
            keys = self._keys(block)
            at_most = ISOLATED_ATTEMPTS if self._is_isolated else ATTEMPTS
            if not _may_begin(self._attempts, keys, at_most=at_most):
                return _row_in_place(unit_id, LOST, _ENDED_OFTEN)
            rows = self._segmenter(block)
            _note_end(self._attempts, keys)
        except Exception as error:  # given back, since Ray Data drops the blocks of what raises
            return _row_in_place(unit_id, *failure(error))
        return rows

    def _keys(self, block: pa.Table) -> list[Any]:
        """What is begun: each image in isolation, else the block."""
        rows = block.select(["unit_id", "position", "kind"])
        if not self._is_isolated:
            return [repr(rows.slice(0, 1).to_pylist())]
        return [
            (row["unit_id"], row["position"]) for row in rows.to_pylist() if row["kind"] == "image"
        ]


def _row_in_place(unit_id: str, kind: str, said: str) -> pa.Table:
    row = {"unit_id": unit_id, "kind": kind, "error_message": said}
    return pa.Table.from_pylist([row], schema=ROWS)


def unless_storage_fails(is_done: Callable[[str], bool]) -> Callable[[str], bool]:
    """Asks `is_done`; the answer is no where the storage gives none."""

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


@dataclass(frozen=True, kw_only=True)
class BoundedLoad:
    """Loads a task as long as not too many processes ended over it: Ray would go on for ever."""

    load: Callable[[pa.Table], pa.Table | Iterable[pa.Table]]
    attempts: Any

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        keys = [repr(task.slice(0, 1).to_pylist())]
        if not _may_begin(self.attempts, keys, at_most=ATTEMPTS):
            unit_id = task["unit_id"][0].as_py() if "unit_id" in task.column_names else ""
            yield in_place_of(unit_id, _ENDED_OFTEN, kind=LOST)
            return
        loaded = self.load(task)
        yield from [loaded] if isinstance(loaded, pa.Table) else loaded
        _note_end(self.attempts, keys)


def _may_begin(attempts: Any, keys: list[Any], *, at_most: int) -> bool:
    return attempts is None or ray.get(attempts.may_begin.remote(keys, at_most=at_most))


def _note_end(attempts: Any, keys: list[Any]) -> None:
    if attempts is not None:
        # Waited for: the next image may end this process with what it has still to say.
        ray.get(attempts.ended.remote(keys))


def receipts(dataset: "ray.data.Dataset") -> Generator[dict[str, Any], None, None]:
    """Executes the dataset; the rows of its last operator, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
