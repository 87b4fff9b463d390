"""Tables whose rows are drawn, with plans and reports: sound, until a test damages them."""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from as_files import encode_table
from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.corpora.sources import Source
from pipeline.labelling.commit import Stager, clear_staging, commit_unit
from pipeline.labelling.rows import ROWS
from pipeline.maintenance.verify.tables import verify_table
from pipeline.storage import Storage
from pipeline.table.plans import put_in_force, write_plan
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import Unit

SPEC = panoptic_spec("car", "sky", "tree", label_ids_to_fuse=(1,))
Row = dict[str, Any]


def image_row(
    position: int, *, unit: str, image_id: str | None = None, etag: str | None = None
) -> Row:
    """Draws an actor's row; of five the third has no segments, the fifth is in error."""
    name = image_id or f"{unit}/{position:04}.jpg"
    row = {
        "unit_id": unit, "kind": "image", "position": position, "image_id": name,
        "uri": f"/data/{name}", "member": None, "etag": etag or f"e-{name}", "bytes_read": 10,
        "num_segments": 0, "coverage": None, "mean_score": None, "segments": [],
    }  # fmt: skip
    if position % 5 == 4:
        error = {"status": "error", "error_class": "NotAnImage", "error_message": "no image"}
        return row | error | {"height": None, "width": None}
    random = np.random.default_rng([position, *unit.encode()])
    height, width = (int(side) for side in random.integers(5, 30, 2))
    ids = np.zeros((height, width), np.int32)
    if position % 5 != 2:
        ids[:] = random.integers(0, 4, (height, width))
        ids[0, 0] = 1
    shapes = encode_segments(ids)
    segments = [
        {
            "segment_id": number, "label_id": number % 3, "label": SPEC.labels[number % 3],
            "is_thing": number % 3 != 1, "score": 0.5 + number / 16, "area": area,
            "bbox_x": x, "bbox_y": y, "bbox_w": w, "bbox_h": h, "rle": rle,
        }
        for number, (area, (x, y, w, h), rle) in enumerate(
            zip(shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True), 1
        )
    ]  # fmt: skip
    return row | {
        "status": "ok", "height": height, "width": width, "num_segments": len(segments),
        "coverage": sum(s["area"] for s in segments) / (height * width), "segments": segments,
        "mean_score": sum(s["score"] for s in segments) / len(segments) if segments else None,
    }  # fmt: skip


def unit_rows(unit: str, *, images: int = 6) -> list[Row]:
    return [image_row(position, unit=unit) for position in range(images)]


def plan_unit(unit: str, rows: Sequence[Row], *, again: int = 0) -> Unit:
    """The sources of the rows, each a file of one image."""
    sources = [
        Source(
            uri=row["uri"], name=row["image_id"], kind="file", etag=row["etag"], size=10, stop=1,
            num_images=1, again=again,
        )
        for row in rows
    ]  # fmt: skip
    return Unit(unit_id=unit, sources=sources)


def plan(table: TableStore, units: Sequence[Unit], *, run_id: str, number: int) -> None:
    write_plan(units, table=table, run_id=run_id)
    assert put_in_force(table, run_id=run_id, number=number)


def commit(table: TableStore, unit: str, rows: Sequence[Row], *, spec: TableSpec = SPEC) -> None:
    """Commits the rows of a unit as a run does."""
    receipts = []
    if rows:
        staged = Stager(table=table, run_id="run")(pa.Table.from_pylist(list(rows), schema=ROWS))
        receipts = [receipt["part"] for receipt in staged.to_pylist()]
    commit_unit(unit, parts=receipts, num_images=len(rows), table=table, spec=spec)
    clear_staging(table, unit)


def report(table: TableStore, rows: Sequence[Row], *, run_id: str, units: int) -> None:
    in_error = sum(row["status"] == "error" for row in rows)
    said = {
        "images": len(rows), "images_in_error": in_error, "errors": {"NotAnImage": in_error},
        "segments": sum(row["num_segments"] for row in rows),
        "units_planned": units, "units_committed": units,
    }  # fmt: skip
    table.storage.write(table.file("_runs", run_id, "report.json"), json.dumps(said).encode())


def draw_table(
    place: str,
    *,
    units: Sequence[str] = ("a", "b", "c"),
    images: int = 6,
    storage: Storage | None = None,
) -> TableStore:
    """A table of one run that came to its end."""
    table = TableStore(place, storage or Storage())
    table.create(SPEC)
    rows = {unit: unit_rows(unit, images=images) for unit in units}
    plan(table, [plan_unit(u, rows[u]) for u in units], run_id="night-1", number=0)
    for unit in units:
        commit(table, unit, rows[unit])
    everything = [row for unit in units for row in rows[unit]]
    report(table, everything, run_id="night-1", units=len(units))
    return table


def rewrite(
    table: TableStore, name: str, change: Callable[[list[Row]], object], **metadata: str
) -> None:
    """Changes the rows of a file in place, and what it says of itself."""
    there = pq.read_table(io.BytesIO(table.storage.read(table.file(name))))
    rows = there.to_pylist()
    change(rows)
    said = {name.encode(): value for name, value in metadata.items()}
    schema = there.schema.with_metadata({**(there.schema.metadata or {}), **said})
    content = encode_table(pa.Table.from_pylist(rows, schema=schema))
    table.storage.write(table.file(name), content)


def assert_is_sound(table: TableStore) -> None:
    """Verifies the whole table."""
    found = verify_table(table, sample=1.0, num_threads=2, most_examples=5)
    assert found.findings.counts == {}, found.findings
