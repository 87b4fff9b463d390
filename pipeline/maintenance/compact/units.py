"""Reads the rows of one unit at a time, from its own files or from compacted ones."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.table.compacted import CompactedFile
from pipeline.table.neighbours import grouped, neighbours
from pipeline.table.store import IMAGES, SEGMENTS, TableStore

_UNIT_ID = pa.field("unit_id", pa.string())

_BATCH_ROWS = 2**15


class DamagedFile(ValueError):
    """A file of the table is missing, unreadable or does not belong to it."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(f"{name}: {' '.join(str(reason).split())[:300]}")
        self.name, self.reason = name, " ".join(str(reason).split())[:300]


@dataclass(frozen=True, kw_only=True)
class UnitRows:
    """The rows of one unit, in their order."""

    unit_id: str
    images: pa.Table
    segments: pa.Table

    @property
    def place(self) -> tuple[str, str]:
        """Returns the key to sort units by, so that readers can prune row groups by image_id."""
        return first_image(self.images), self.unit_id


def first_image(images: pa.Table) -> str:
    """Returns the smallest image_id; empty if there is none."""
    return pc.min(images["image_id"]).as_py() or ""


def compacted_segments(segments: pa.Schema) -> pa.Schema:
    """Returns the columns of compacted segments, which name the unit of each row."""
    return segments.append(_UNIT_ID)


def read_unit(table: TableStore, unit_id: str, *, segments: pa.Schema = SEGMENTS) -> UnitRows:
    """Reads a unit from its own files; the tables have the files' metadata.

    Args:
        segments: the columns of the table's segments, `TableSpec.segments_schema`.

    Raises:
        DamagedFile: a file is missing, cannot be read or has other columns.
    """
    name = f"{unit_id}.parquet"
    return UnitRows(
        unit_id=unit_id,
        images=read_table(table, f"images/{name}", schema=IMAGES),
        segments=read_table(table, f"segments/{name}", schema=segments),
    )


def read_table(
    table: TableStore, name: str, *, schema: pa.Schema, columns: list[str] | None = None
) -> pa.Table:
    """Reads a file, whose columns must be those of the schema."""
    try:
        data = table.storage.read(table.file(name))
    except FileNotFoundError as error:
        raise DamagedFile(name, "there is no such file") from error
    return _parsed(name, data, schema=schema, columns=columns)


def compacted_rows(
    table: TableStore, file: CompactedFile, *, segments: pa.Schema
) -> Iterator[UnitRows]:
    """Reads the units of a compacted file that have images, one after another.

    Raises:
        DamagedFile: as `read_unit`, or the two files hold different units.
    """
    images = read_table(table, file.images, schema=IMAGES)
    by_unit = _segments_by_unit(table, file.segments, schema=compacted_segments(segments))
    waiting = next(by_unit, None)
    for unit_id, start, stop in neighbours(images, "unit_id"):
        rows = images.slice(start, stop - start)
        found = segments.empty_table()
        if waiting is not None and waiting[0] == unit_id:
            found, waiting = waiting[1].drop_columns(["unit_id"]), next(by_unit, None)
        yield UnitRows(unit_id=unit_id, images=rows, segments=found)
    if waiting is not None:
        raise DamagedFile(file.segments, f"unit {waiting[0]} is not in {file.images} there")


def _segments_by_unit(
    table: TableStore, name: str, *, schema: pa.Schema
) -> Iterator[tuple[str, pa.Table]]:
    """Reads the segments of each unit; at most one batch more is in memory."""
    place = table.storage.file(table.file(name))
    if place is None:
        raise DamagedFile(name, "there is no such file")
    try:
        with table.storage.open(place.uri, etag=place.etag, size=place.size) as data:
            file = pq.ParquetFile(data, pre_buffer=False)
            _check_columns(name, file.schema_arrow, schema)
            yield from grouped(file.iter_batches(batch_size=_BATCH_ROWS), "unit_id")
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        raise DamagedFile(name, error) from error


def _parsed(
    name: str, data: bytes, *, schema: pa.Schema, columns: list[str] | None = None
) -> pa.Table:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        _check_columns(name, file.schema_arrow, schema)
        # One thread: callers read many files in threads of their own.
        return file.read(columns=columns, use_threads=False)
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        raise DamagedFile(name, error) from error


def _check_columns(name: str, found: pa.Schema, schema: pa.Schema) -> None:
    if not found.equals(schema, check_metadata=False):
        differing = [f for f in schema if f not in list(found)] or [f.name for f in found]
        raise DamagedFile(name, f"its columns are not those of a table, as {differing[0]}")
