"""Builds the Ray dataset of a labelling run: units to pixels to rows to receipts.

One task reads a unit and yields blocks of pixels, actors turn blocks into rows, small tasks stage
the rows and return receipts. `driver.py` iterates over the receipts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import RECEIPT, Stager, fault_receipt
from pipeline.labelling.deadline import NOT_BEGUN
from pipeline.labelling.loading import UnitLoader, block_in_place
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.operators import (
    DONE_ELSEWHERE,
    WholeImageFactory,
    configure_ray_data,
    segmented,
)
from pipeline.labelling.poison import IsolationContext, failure
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import Machines
from pipeline.storage import StorageFault
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import Unit

_IMAGE_BYTES = 100_000
"""Encoded bytes of a typical photograph, where a unit does not know its number of images."""


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


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Loads a unit if no other run has committed it and the admission lets it begin."""

    load: UnitLoader
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


def label_dataset(
    units: Iterable[Unit],
    *,
    job: LabellingJob,
    model: "ray.ObjectRef[ModelFiles]",
    admission: Any = None,
    attempts: Any = None,
    isolation: IsolationContext | None = None,
    gpus_left_alone: int = 0,
) -> "ray.data.Dataset":
    """Builds the operators from units to receipts.

    Args:
        admission: the actor of a `DeadlineAdmission`; None for a run without a deadline.
        attempts: the actor of an `AttemptTracker`; None for attempts without a limit.
        isolation: images that end processes, in a pass that looks for them; None in others.
        gpus_left_alone: how many GPUs of the cluster get no actor.
    """
    units = list(units)
    machines = Machines.of_cluster(job.actors, gpus_left_alone=gpus_left_alone)
    block_bytes = machines.block_bytes(job.processor) if isolation is None else 1
    configure_ray_data(block_bytes=block_bytes)
    # Our functions raise nothing. Units that Ray loses are undone after the pass, and tried again.
    DataContext.get_current().max_errored_blocks = -1
    loader = UnitLoader(
        storage=job.table.storage,
        reading=job.reading,
        processor=job.processor,
        block_bytes=block_bytes,
        is_guarded=isolation is not None,
        quarantined={} if isolation is None else isolation.quarantined,
    )
    return segmented(
        ray.data.from_arrow([unit.table() for unit in units]),
        load=_Reader(load=loader, table=job.table, admission=admission).__call__,
        model=model,
        factory=WholeImageFactory(settings=job.segmenting),
        machines=machines,
        num_images=sum(unit.num_images or unit.num_bytes // _IMAGE_BYTES for unit in units),
        attempts=attempts,
        is_isolated=isolation is not None,
        is_done=job.table.is_done,
    ).map_batches(
        _Staging(stage=Stager(table=job.table, run_id=job.run_id)).__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=machines.stager_cpus,
    )
