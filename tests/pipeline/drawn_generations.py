"""A segment table in which one photograph changed and was segmented again."""

from pathlib import Path

import pyarrow as pa
from as_files import encode_table
from corpora import put
from drawn_labels import Scene, write_table
from drawn_tables import plan, plan_unit

from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, images, segments


def table_with_a_change(folder: Path, *, drawn: list[Scene], status: str = "ok") -> TableStore:
    """The scenes, of which the first looks like the second since.

    Its new rows are in unit `a`, all others in `u`, which is older and comes later by name.
    """
    table = TableStore(write_table(folder, drawn), Storage())
    first, second = (f"{scene.name}.jpg" for scene in drawn[:2])
    rows = images(table.uri).to_table().to_pylist()
    (before,) = (row for row in rows if row["image_id"] == first)
    put(folder / "photos", {first: drawn[1].jpeg + b"\0"})
    changed = before | {
        "unit_id": "a", "status": status, "error_message": "no good",
        "etag": Storage().file(before["uri"]).etag,
    }  # fmt: skip
    drawn_anew = [
        row | {"image_id": first}
        for row in segments(table.uri).to_table().to_pylist()
        if row["image_id"] == second
    ]
    for part, schema, these in (
        ("segments", SEGMENTS, drawn_anew if status == "ok" else []),
        ("images", IMAGES, [changed]),
    ):
        content = encode_table(pa.Table.from_pylist(these, schema=schema))
        table.storage.write(table.file(part, "a.parquet"), content)
    plan(table, [plan_unit("u", rows)], run_id="night-1", number=0)
    plan(table, [plan_unit("a", [changed])], run_id="night-2", number=1)
    return table
