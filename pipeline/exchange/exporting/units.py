"""Reads the rows of a table unit by unit, with the segments of each image beside it.

Units come in the order of their first images, whether `maskformer compact` joined them or not: so
an export is the same before and after. A few units are in memory at once.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.runtime.threads import map_ahead
from pipeline.storage import StorageFault
from pipeline.table.latest import Generations
from pipeline.table.neighbours import grouped, neighbours
from pipeline.table.store import IMAGES, SEGMENTS, DoneUnits, TableStore

IMAGE_COLUMNS = (
    "image_id", "uri", "member", "etag", "unit_id", "position", "height", "width", "status",
)  # fmt: skip
_READERS = 2
_BATCH_ROWS = 2**14

Part = Literal["segments", "images"]


@dataclass(frozen=True, kw_only=True)
class UnitToExport:
    """The rows of one unit."""

    unit_id: str
    images: pa.Table
    """The latest rows of images without error, with the columns `IMAGE_COLUMNS`, by position."""
    segments: pa.Table
    """Segments of all images of the unit, those of an image one after the other."""


def read_units_to_export(
    table: TableStore, unit_ids: Sequence[str], *, done: DoneUnits, now: Generations
) -> Iterator[UnitToExport]:
    """Reads units in the given order; those that are joined must be in the order of their file.

    Raises:
        ValueError: a file of the table is damaged.
    """
    joined = {
        number: _JoinedUnits(
            images=_runs(table, file.images, part="images"),
            segments=_runs(table, file.segments, part="segments"),
        )
        for number, file in enumerate(done.files)
    }

    def read(unit_id: str) -> UnitToExport | None:
        if unit_id in done.compacted:
            return None
        return UnitToExport(
            unit_id=unit_id,
            images=_read_own(table, unit_id, part="images"),
            segments=_read_own(table, unit_id, part="segments"),
        )

    own = map_ahead(read, unit_ids, num_threads=_READERS, ahead=_READERS)
    for unit_id, rows in zip(unit_ids, own, strict=True):
        yield _latest(rows or joined[done.compacted[unit_id]].take(unit_id), now=now)


def rows_by_image(segments: pa.Table) -> dict[str, tuple[int, int]]:
    """Returns the first row and the one behind the last of each image."""
    return {image_id: (start, stop) for image_id, start, stop in neighbours(segments, "image_id")}


def _latest(rows: UnitToExport, *, now: Generations) -> UnitToExport:
    images = rows.images
    ids, unit_ids = (images[name].combine_chunks() for name in ("image_id", "unit_id"))
    is_latest = now.is_latest(ids, unit_ids)
    images = images.filter(pc.and_(pa.array(is_latest), pc.equal(images["status"], "ok")))
    return UnitToExport(
        unit_id=rows.unit_id, images=images.sort_by("position"), segments=rows.segments
    )


@dataclass
class _JoinedUnits:
    """The units of a compacted file, read once from its start to its end."""

    images: Iterator[tuple[str, pa.Table]]
    segments: Iterator[tuple[str, pa.Table]]
    _waiting: tuple[str, pa.Table] | None = None

    def take(self, unit_id: str) -> UnitToExport:
        """Returns the rows of the next unit of the file; none of a unit without images."""
        images = self._next_of(self.images, unit_id) or _empty("images")
        if self._waiting is None:
            self._waiting = next(self.segments, None)
        segments = _empty("segments")
        if self._waiting is not None and self._waiting[0] == unit_id:
            segments, self._waiting = self._waiting[1], None
        return UnitToExport(unit_id=unit_id, images=images, segments=segments)

    def _next_of(self, runs: Iterator[tuple[str, pa.Table]], unit_id: str) -> pa.Table | None:
        found = next(runs, None)
        if found is None or found[0] != unit_id:
            raise ValueError(
                f"unit {unit_id} is not where its compacted file has it; see maskformer verify"
            )
        return found[1]


def _runs(table: TableStore, name: str, *, part: Part) -> Iterator[tuple[str, pa.Table]]:
    """Reads the rows of each unit of a compacted file; at most one batch more is in memory."""
    place = table.storage.file(table.file(name))
    if place is None:
        raise StorageFault(f"{table.file(name)} was joined again and removed; export once more")
    try:
        with table.storage.open(place.uri, etag=place.etag, size=place.size) as data:
            file = pq.ParquetFile(data, pre_buffer=False)
            columns = [*_columns(file.schema_arrow, part), *({"unit_id"} - {*_wanted(part)})]
            batches = file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            yield from grouped(batches, "unit_id")
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        raise _damaged(place.uri, error) from error


def _read_own(table: TableStore, unit_id: str, *, part: Part) -> pa.Table:
    place = table.file(part, f"{unit_id}.parquet")
    try:
        file = pq.ParquetFile(io.BytesIO(table.storage.read(place)))
        return file.read(columns=_columns(file.schema_arrow, part), use_threads=False)
    except FileNotFoundError as error:
        raise StorageFault(f"{place} is gone since the export began; export once more") from error
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        raise _damaged(place, error) from error


def _damaged(place: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"{place} cannot be read: {reason}; see maskformer verify")


def _wanted(part: Part) -> Sequence[str]:
    return IMAGE_COLUMNS if part == "images" else SEGMENTS.names


def _columns(found: pa.Schema, part: Part) -> list[str]:
    """Returns the columns to read; older tables lack some."""
    return [name for name in _wanted(part) if name in found.names]


def _empty(part: Part) -> pa.Table:
    schema: Mapping[str, pa.Schema] = {"images": IMAGES, "segments": SEGMENTS}
    return schema[part].empty_table().select(list(_wanted(part)))
