"""Builds the Ray dataset of a labelling run: units to pixels to rows to receipts.

One task reads a unit and yields blocks of pixels; actors turn blocks into rows, stage the rows and
return receipts. `unit_pass.py` iterates over the receipts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray.data import DataContext

from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.operators import configure_ray_data, segmented
from pipeline.labelling.driving.unit_queue import OpenUnit, StoredUnits
from pipeline.labelling.driving.workers import TaskOpener
from pipeline.labelling.failures.poison import IsolationContext
from pipeline.labelling.model import ModelFiles
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.runtime.remote_objects import RemoteObject

_ENCODING = 8
"""Bytes of pixels for each byte of a typical JPEG, or some more."""


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """The tasks of a dataset, one for each unit that it may read, and how to open them."""

    tasks: "Callable[[], ray.data.Dataset]"
    """Makes the dataset: it keeps the options of Ray Data that are set at the time."""
    open_task: TaskOpener

    @classmethod
    def of(cls, units: StoredUnits) -> "TaskSource":
        return cls(tasks=units.tasks, open_task=OpenUnit(tables=units.tables))


def label_dataset(
    source: TaskSource,
    *,
    job: LabellingJob,
    machines: Machines,
    num_images: int,
    model: "ray.ObjectRef[ModelFiles]",
    admission: RemoteObject | None = None,
    attempts: RemoteObject | None = None,
    isolation: IsolationContext | None = None,
    group: NodeGroup | None = None,
) -> "ray.data.Dataset":
    """Builds the operators from tasks to receipts.

    Args:
        num_images: about how many images the tasks have in all.
        admission: the `DeadlineAdmission`; None for a run without a deadline.
        attempts: the `AttemptTracker`; None for attempts without a limit.
        isolation: images that end processes, in a pass that looks for them; None in others.
        group: the nodes that work on the dataset; None for all.
    """
    block_bytes = job.block_bytes(machines, isolation=isolation)
    if job.reading.decode == "gpu":
        block_bytes = -(-block_bytes // _ENCODING)  # Ray would join blocks of encoded images
    configure_ray_data(block_bytes=block_bytes, group=group)
    # Our functions raise nothing. Units that Ray loses are undone after the pass, and tried again.
    DataContext.get_current().max_errored_blocks = -1
    return segmented(
        source.tasks(),
        open_task=source.open_task,
        load=job.reader(machines, isolation=isolation, admission=admission),
        model=model,
        factory=job.segmenters,
        machines=machines,
        num_images=num_images,
        attempts=attempts,
        is_isolated=isolation is not None,
        is_done=job.table.is_done,
        finish=job.staging.__call__,
    )
