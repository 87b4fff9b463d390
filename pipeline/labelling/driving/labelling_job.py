"""The parameters of a labelling run that all its workers share. Starts without Ray."""

from dataclasses import dataclass

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import Stager
from pipeline.labelling.driving.workers import (
    LoadUnit,
    RowStaging,
    SegmenterFactory,
    UnitReader,
    WholeImageFactory,
)
from pipeline.labelling.failures.poison import IsolationContext
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.runtime.remote_objects import RemoteObject
from pipeline.table.store import TableSpec, TableStore


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

    def reader(
        self,
        machines: Machines,
        *,
        isolation: IsolationContext | None,
        admission: RemoteObject | None,
    ) -> LoadUnit:
        """Returns what loads a unit that is to be done, or the row in place of its images."""
        loader = self.loader(machines, isolation=isolation)
        return UnitReader(load=loader, table=self.table, admission=admission).__call__

    @property
    def staging(self) -> RowStaging:
        """Returns what stages the rows of a block."""
        return RowStaging(stage=Stager(table=self.table, run_id=self.run_id))
