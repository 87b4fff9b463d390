"""Labels units in this process, without Ray: what a run is compared with."""

from collections.abc import Callable, Iterable

import pyarrow as pa

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import Stager, commit_unit
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.planning.planner import Unit
from pipeline.storage import Storage
from pipeline.table.store import TableSpec, TableStore


def label_by_hand(
    units: Iterable[Unit],
    *,
    table: TableStore,
    spec: TableSpec,
    processor: MaskFormerImageProcessor,
    segmenter: Callable[[pa.Table], pa.Table],
    reading: ReadSettings | None = None,
) -> None:
    """Commits one unit after another to a table of this spec."""
    loader = UnitLoader(
        storage=Storage(),
        reading=reading or ReadSettings(),
        processor=processor,
        block_bytes=10**9,
    )
    stager = Stager(table=table, run_id="hand")
    for unit in units:
        rows = pa.concat_tables([segmenter(block) for block in loader(unit.table())])
        (receipt,) = stager(rows).to_pylist()
        commit_unit(
            unit.unit_id,
            parts=[receipt["part"]],
            num_images=receipt["num_images"],
            table=table,
            spec=spec,
        )
