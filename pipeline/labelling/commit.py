"""Stages rows as parts of a unit, and commits the parts as the unit's two files.

Parts are named by run, unit and positions, a unit's files by the unit. Two attempts at a unit need
not agree to the last bit, so `segments/<unit>` is written once, by the first of them, and carries
in its footer what its rows in `images` must say. All others, also those after a crash, finish that
attempt in place of their own. `images/<unit>` is written last, makes the unit visible to readers,
and is never overwritten: another run may have put a tombstone in its place (`tombstones.py`).
"""

import base64
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.labelling.rows import RETRIES, ROWS, image_table, segment_table, taken_retries
from pipeline.runtime.run_stats import Counts
from pipeline.runtime.skips import SKIPPED
from pipeline.storage import StorageFault
from pipeline.table.store import IMAGES, TableSpec, TableStore, parquet_options

RECEIPT = pa.schema(
    [
        ("unit_id", pa.string()),
        ("part", pa.string()),  # null where nothing was staged
        ("positions", pa.list_(pa.int64())),
        ("num_images", pa.int64()),  # of the unit, where its end was seen
        ("num_segments", pa.int64()),
        ("bytes_read", pa.int64()),
        ("fault", pa.string()),  # why the unit stays undone
        (
            "fault_kind",
            pa.string(),
        ),  # the kind of the row in place of images, as `loading.BLOCK` has it
        ("storage_retries", RETRIES),  # of the reader and of the stager
        ("skipped", SKIPPED),  # in the unit's archives, where its end was seen
        (
            "errors",
            pa.list_(
                pa.struct(
                    [
                        ("position", pa.int64()),
                        ("image_id", pa.string()),
                        ("error_class", pa.string()),
                        ("error_message", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
"""A row for each staged part, which the driver counts; small, whatever the images are."""

_DECIDED = pa.schema(
    [
        IMAGES.field(name)
        for name in (
            *("height", "width", "status", "error_class", "error_message"),
            *("num_segments", "coverage", "mean_score"),
        )
    ]
)
"""The columns of `images` that two attempts may give other values; the rest is of the sources."""

_OUTCOMES = b"image_outcomes"
_ROW_GROUP_ROWS = 8192
_LEFTOVER_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Stager:
    """Writes rows under `_staging/<unit_id>/` and returns receipts."""

    table: TableStore
    run_id: str

    def __call__(self, rows: pa.Table) -> pa.Table:
        units = pa.compute.unique(rows["unit_id"]).to_pylist()
        receipts = []
        for unit_id in units:
            of_unit = rows.filter(pa.compute.field("unit_id") == unit_id)
            receipt = self._stage(of_unit, unit_id=unit_id)
            retries = [each for row in of_unit["storage_retries"].to_pylist() for each in row or ()]
            receipts.append(receipt | {"storage_retries": [*retries, *taken_retries()]})
        return pa.Table.from_pylist(receipts, schema=RECEIPT)

    def _stage(self, rows: pa.Table, *, unit_id: str) -> dict[str, object]:
        images = rows.filter(pa.compute.field("kind") == "image")
        positions = images["position"].to_pylist()
        receipt: dict[str, object] = {"unit_id": unit_id, "positions": positions, "errors": []}
        for row in rows.filter(pa.compute.field("kind") != "image").to_pylist():
            if row["kind"] == "end":
                receipt |= {"num_images": row["position"], "skipped": row["skipped"]}
            else:
                receipt |= {"fault": row["error_message"], "fault_kind": row["kind"]}
        if not positions:
            return receipt
        failed = images.filter(pa.compute.field("status") == "error")
        name = f"{self.run_id}-{min(positions)}-{max(positions)}-{len(positions)}.parquet"
        part = self.table.file("_staging", unit_id, name)
        try:
            self.table.storage.write(part, _parquet(images))
        except StorageFault as fault:
            return fault_receipt(unit_id, str(fault))
        return receipt | {
            "part": part,
            "bytes_read": pa.compute.sum(images["bytes_read"]).as_py(),
            "num_segments": pa.compute.sum(images["num_segments"]).as_py(),
            "errors": failed.select(
                [f.name for f in RECEIPT.field("errors").type.value_type]
            ).to_pylist(),
        }


def fault_receipt(unit_id: str, fault: str, *, kind: str = "fault") -> dict[str, object]:
    """Returns the receipt of rows that could not be staged."""
    return {"unit_id": unit_id, "positions": [], "fault": fault, "fault_kind": kind}


def commit_unit(
    unit_id: str,
    *,
    parts: Iterable[str],
    num_images: int,
    table: TableStore,
    spec: TableSpec,
) -> Counts:
    """Joins the parts of a unit and writes its two files, of one attempt; `images` last.

    Returns:
        The numbers of images, segments and errors by class that the files hold; not always those
        of the parts, where another attempt was first.

    Raises:
        StorageFault: a part is gone, the parts do not add up to the unit, or the unit has a
            tombstone; nothing was committed.
    """
    rows = _joined(parts, unit_id=unit_id, num_images=num_images, table=table)
    metadata = {**spec.file_metadata, "unit_id": unit_id}
    place = table.file("segments", f"{unit_id}.parquet")
    segments = _parquet(
        segment_table(rows).select(spec.segments_schema.names).replace_schema_metadata(metadata),
        footer={_OUTCOMES: _packed(rows)},
    )
    there = table.storage.write_once(place, segments)
    if there != segments:
        outcomes = _outcomes(there, num_images=num_images)
        if outcomes is None:
            table.storage.write(place, segments)
        else:
            rows = _replaced(rows, outcomes)
    if not table.finish(unit_id, _parquet(image_table(rows).replace_schema_metadata(metadata))):
        raise StorageFault(
            f"unit {unit_id}: another run found one of its sources gone or replaced, and plans the "
            "rest"
        )
    errors = Counter(each for each in rows["error_class"].to_pylist() if each is not None)
    num_segments = pa.compute.sum(rows["num_segments"]).as_py() or 0
    return Counts(images=num_images, segments=num_segments, errors=errors)


def clear_staging(table: TableStore, unit_id: str) -> None:
    """Removes all staged parts of a unit that is done, whichever run wrote them."""
    staged = [file.uri for file in table.storage.files(table.file("_staging", unit_id))]
    table.storage.delete(staged)


def clear_leftovers(table: TableStore) -> None:
    """Removes staged parts of crashed runs: those of units that are done, or older than a day.

    Younger parts of other units may belong to a run that works at the same time.
    """
    staged = list(table.storage.files(table.file("_staging")))
    done = table.done_units() if staged else set()
    too_old = time.time() - _LEFTOVER_SECONDS
    table.storage.delete(
        file.uri for file in staged if file.uri.split("/")[-2] in done or file.modified < too_old
    )


def _joined(parts: Iterable[str], *, unit_id: str, num_images: int, table: TableStore) -> pa.Table:
    """Returns the rows of all parts by position, each position once."""
    tables = [ROWS.empty_table()]
    for part in parts:
        try:
            data = table.storage.read(part)
        except FileNotFoundError as error:
            raise StorageFault(f"unit {unit_id}: its staged part {part} is gone") from error
        tables.append(read_parquet(data).cast(ROWS))
    rows = pa.concat_tables(tables)
    position = rows["position"].to_numpy()
    first_of: dict[int, int] = {}
    for index, value in enumerate(position.tolist()):
        first_of.setdefault(value, index)
    if sorted(first_of) != list(range(num_images)):
        raise StorageFault(
            f"unit {unit_id}: its staged parts hold {len(first_of)} images of {num_images}"
        )
    return rows.take(pa.array([first_of[value] for value in range(num_images)], pa.int64()))


def _packed(rows: pa.Table) -> bytes:
    """Returns the columns of `images` that an attempt decides, as text for a file's footer."""
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(buffer, _DECIDED, options=options) as writer:
        writer.write_table(rows.select(_DECIDED.names).cast(_DECIDED))
    return base64.b64encode(buffer.getvalue())


def _outcomes(segments: bytes, *, num_images: int) -> pa.Table | None:
    """Returns what `_packed` put into a file's footer.

    None for a file that cannot be finished: half of one, which a mounted bucket keeps of a process
    that died, or one of a version that put nothing there.
    """
    try:
        footer = pq.read_metadata(pa.BufferReader(segments)).metadata or {}
    except pa.ArrowInvalid:
        return None
    if _OUTCOMES not in footer:
        return None
    with pa.ipc.open_stream(base64.b64decode(footer[_OUTCOMES])) as reader:
        outcomes = reader.read_all()
    return outcomes if len(outcomes) == num_images else None


def _replaced(rows: pa.Table, columns: pa.Table) -> pa.Table:
    for name in columns.column_names:
        rows = rows.set_column(rows.column_names.index(name), name, columns[name])
    return rows


def _parquet(content: pa.Table, *, footer: Mapping[bytes, bytes] | None = None) -> bytes:
    """Returns a Parquet file.

    Args:
        footer: metadata beside the schema's, which are written twice.
    """
    buffer = io.BytesIO()
    options = parquet_options(content.schema)
    with pq.ParquetWriter(buffer, content.schema, **options) as writer:
        writer.write_table(content, row_group_size=_ROW_GROUP_ROWS)
        if footer:
            writer.add_key_value_metadata(footer)
    return buffer.getvalue()
