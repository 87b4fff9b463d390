"""Builds the Ray Data operators that labelling and evaluation share: tasks to pixels to rows.

The operators call the functions of `workers.py`. `ray_dataset.py` and the evaluation's driver add
their own operators.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from pipeline.labelling.driving.workers import (
    BoundedLoad,
    SegmenterActor,
    SegmenterFactory,
    TaskOpener,
)
from pipeline.labelling.failures.poison import AttemptTracker
from pipeline.labelling.model import ModelFiles
from pipeline.runtime.inside_ray import blocks, map_blocks
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.runtime.remote_objects import RayObject, RemoteObject

_STALLED_SECONDS = 900

_ATTEMPT_TRACKER = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptTracker)


def start_attempt_tracker() -> RayObject:
    """Starts the actor of an `AttemptTracker`."""
    return RayObject(_ATTEMPT_TRACKER.remote())


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
    attempts: RemoteObject | None,
    is_isolated: bool = False,
    is_done: Callable[[str], bool] | None = None,
    open_task: TaskOpener | None = None,
    finish: Callable[[pa.Table], pa.Table] | None = None,
) -> "ray.data.Dataset":
    """Adds two operators: `load` turns tasks into blocks of pixels, actors turn blocks into rows.

    Args:
        factory: builds the segmenter of each actor.
        num_images: about how many the tasks have in all.
        attempts: the `AttemptTracker`; None for attempts without a limit.
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
        SegmenterActor,
        fn_constructor_kwargs={
            "model": functools.partial(ray.get, model),
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


def receipts(dataset: "ray.data.Dataset") -> Generator[dict[str, Any], None, None]:
    """Executes the dataset and yields the rows of its last operator as they come."""
    for block in blocks(dataset):
        yield from block.to_pylist()
