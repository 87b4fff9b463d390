"""Tables written straight to files, for benchmarks of what reads them."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.sources import Source
from pipeline.table.plans import put_in_force, write_plan
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, parquet_options
from pipeline.table.units import Unit


def write_drawn_unit(
    table: TableStore,
    unit_id: str,
    *,
    images: Sequence[dict[str, Any]],
    segments: Sequence[dict[str, Any]],
    metadata: dict[str, str],
) -> Unit:
    """Writes both files of a unit; returns it with a file of one image as each source."""
    for part, rows, schema in (("segments", segments, SEGMENTS), ("images", images, IMAGES)):
        schema = schema.with_metadata({**metadata, "unit_id": unit_id})
        buffer = io.BytesIO()
        content = pa.Table.from_pylist(list(rows), schema=schema)
        pq.write_table(content, buffer, **parquet_options(schema))
        table.storage.write(table.file(part, f"{unit_id}.parquet"), buffer.getvalue())
    sources = [
        Source(
            uri=row["uri"], name=row["image_id"], kind="file", etag=row["etag"], size=10, stop=1,
            num_images=1,
        )
        for row in images
    ]  # fmt: skip
    return Unit(unit_id=unit_id, sources=sources)


def plan_units(table: TableStore, units: Sequence[Unit]) -> None:
    write_plan(units, table=table, run_id="drawn")
    put_in_force(table, run_id="drawn", number=0)
