"""Builds the Ray dataset of a labelling run: units to pixels to rows to receipts.

One task reads a unit and yields blocks of pixels; actors turn blocks into rows, stage the rows and
return receipts. `unit_pass.py` iterates over the receipts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import RECEIPT, Stager, fault_receipt
from pipeline.labelling.driving.deadline import NOT_BEGUN
from pipeline.labelling.driving.operators import (
    DONE_ELSEWHERE,
    SegmenterFactory,
    WholeImageFactory,
    configure_ray_data,
    segmented,
)
from pipeline.labelling.driving.unit_queue import OpenUnit, StoredUnits, TaskOpener
from pipeline.labelling.failures.poison import IsolationContext, failure
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.reading.unit_loader import UnitLoader, block_in_place
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.storage import StorageFault
from pipeline.table.store import TableSpec, TableStore

_ENCODING = 8
"""Bytes of pixels for each byte of a typical JPEG, or some more."""

LoadUnit = Callable[[pa.Table], Iterator[pa.Table]]
"""Reads the unit with these rows of the plan, and yields it in blocks of pixels."""


@dataclass(frozen=True, kw_only=True)
class LabellingJob:
    """The parameters of a run that all its workers share."""

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

    @property
    def segmenters(self) -> SegmenterFactory:
        """Builds the segmenters of actors."""
        return WholeImageFactory(settings=self.segmenting, storage=self.table.storage)

    def loader(self, machines: Machines, *, isolation: IsolationContext | None) -> LoadUnit:
        """Returns what reads a unit, in blocks that suit the machines."""
        return UnitLoader(
            storage=self.table.storage,
            reading=self.reading,
            processor=self.processor,
            block_bytes=self.block_bytes(machines, isolation=isolation),
            is_guarded=isolation is not None,
            for_gpus=machines.actor_gpus > 0,
            quarantined={} if isolation is None else isolation.quarantined,
        )

    def block_bytes(self, machines: Machines, *, isolation: IsolationContext | None) -> int:
        """Returns the bytes of pixels of a block; in isolation each image is one."""
        return machines.block_bytes(self.processor) if isolation is None else 1


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Loads a unit if no other run has committed it and the admission lets it begin."""

    load: LoadUnit
    table: TableStore
    admission: Any

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        unit_id = unit["unit_id"][0].as_py()
        try:
            if self.table.is_done(unit_id):
                yield block_in_place(unit_id, DONE_ELSEWHERE)
            elif self.admission is None or ray.get(self.admission.admits.remote(unit_id)):
                yield from self.load(unit)
            else:
                yield block_in_place(unit_id, NOT_BEGUN)
        except StorageFault as fault:
            yield block_in_place(unit_id, str(fault))
        except Exception as error:  # a row, since Ray Data drops blocks that raise
            kind, message = failure(error)
            yield block_in_place(unit_id, message, kind=kind)


@dataclass(frozen=True, kw_only=True)
class _Staging:
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
    admission: Any = None,
    attempts: Any = None,
    isolation: IsolationContext | None = None,
    group: NodeGroup | None = None,
) -> "ray.data.Dataset":
    """Builds the operators from tasks to receipts.

    Args:
        num_images: about how many images the tasks have in all.
        admission: the actor of a `DeadlineAdmission`; None for a run without a deadline.
        attempts: the actor of an `AttemptTracker`; None for attempts without a limit.
        isolation: images that end processes, in a pass that looks for them; None in others.
        group: the nodes that work on the dataset; None for all.
    """
    block_bytes = job.block_bytes(machines, isolation=isolation)
    if job.reading.decode == "gpu":
        block_bytes = -(-block_bytes // _ENCODING)  # Ray would join blocks of encoded images
    configure_ray_data(block_bytes=block_bytes, group=group)
    # Our functions raise nothing. Units that Ray loses are undone after the pass, and tried again.
    DataContext.get_current().max_errored_blocks = -1
    loader = job.loader(machines, isolation=isolation)
    return segmented(
        source.tasks(),
        open_task=source.open_task,
        load=_Reader(load=loader, table=job.table, admission=admission).__call__,
        model=model,
        factory=job.segmenters,
        machines=machines,
        num_images=num_images,
        attempts=attempts,
        is_isolated=isolation is not None,
        is_done=job.table.is_done,
        finish=_Staging(stage=Stager(table=job.table, run_id=job.run_id)).__call__,
    )
