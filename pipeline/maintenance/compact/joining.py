"""Joins chosen units into larger files, in the order of their images, and makes the next pointer.

Only the rows of a few units and of the current file are in memory. The folder's name and all bytes
are functions of the previous pointer and of the units: joining twice gives the same files.
"""

import hashlib
import heapq
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.maintenance.compact.compaction_plan import CompactionPlan
from pipeline.maintenance.compact.parquet_in_memory import ParquetInMemory
from pipeline.maintenance.compact.units import (
    DamagedFile,
    UnitRows,
    compacted_rows,
    compacted_segments,
    first_image,
    read_table,
    read_unit,
)
from pipeline.runtime.threads import map_ahead
from pipeline.storage import join
from pipeline.table.compacted import FOLDER, UNITS, CompactedFile, Pointer, pointer_file
from pipeline.table.store import IMAGES, TableSpec, TableStore, parquet_options

_ROW_GROUP_ROWS = 2**14
_READERS = 8
_LAYOUT = "1"

Part = Literal["segments", "images"]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The new files and their pointer; readers do not see them before `publish_pointer`."""

    pointer: Pointer
    written: tuple[CompactedFile, ...]
    num_units: int
    """Number of units in the new files."""


def join_units(
    plan: CompactionPlan[CompactedFile],
    *,
    before: Pointer,
    compacted: Mapping[str, int],
    table: TableStore,
    target_bytes: int,
    on_unit: Callable[[], None],
) -> Joined:
    """Writes the chosen units into new files, and the list of all units beside them.

    Args:
        before: the previous pointer, and `compacted` its units.

    Raises:
        DamagedFile: a unit cannot be read, or does not belong to the table.
    """
    absorbed = [file in plan.absorbed for file in before.files]
    absorbed_units = {unit for unit, number in compacted.items() if absorbed[number]}
    chosen = sorted({*plan.units, *absorbed_units})
    generation = before.generation + 1
    folder = f"{FOLDER}/{generation:08}-{content_id(chosen, target_bytes=target_bytes)}"
    spec = TableSpec.of(table.existing_spec())
    output = _Output(table=table, folder=folder, target_bytes=target_bytes, spec=spec)
    streams = [compacted_rows(table, file, segments=spec.segments_schema) for file in plan.absorbed]
    streams.append(_own_units(plan.units, table=table, spec=spec))
    for unit in heapq.merge(*streams, key=lambda unit: unit.place):
        output.add(unit)
        on_unit()
    written = output.close()
    # Units without any image have no rows in a compacted file, but remain done.
    left = [unit for unit in chosen if unit not in output.file_of]
    files = (*plan.kept, *written)
    numbers = {file: number for number, file in enumerate(files)}
    file_of = {
        unit: numbers[before.files[number]]
        for unit, number in compacted.items()
        if unit not in absorbed_units
    }
    file_of |= {unit: len(plan.kept) + number for unit, number in output.file_of.items()}
    file_of |= dict.fromkeys(left, len(files) - 1)
    units_file = f"{folder}/units.parquet"
    table.storage.write(table.file(units_file), _units_parquet(file_of))
    pointer = Pointer(generation=generation, files=files, units_file=units_file)
    return Joined(pointer=pointer, written=written, num_units=len(chosen))


def publish_pointer(joined: Joined, *, table: TableStore) -> bool:
    """Puts the new files in force by one write; False if another compaction was faster."""
    pointer = joined.pointer
    name = pointer_file(table.uri, pointer.generation)
    return table.storage.write_new(name, pointer.to_json().encode())


def content_id(units: Iterable[str], *, target_bytes: int) -> str:
    """Returns 16 hexadecimal digits for the units that are joined and the size of the files."""
    digest = hashlib.sha256(f"{_LAYOUT} {target_bytes}".encode())
    for unit in units:
        digest.update(b"\0" + unit.encode())
    return digest.hexdigest()[:16]


def _own_units(units: Iterable[str], *, table: TableStore, spec: TableSpec) -> Iterator[UnitRows]:
    """Reads units from their own files, in the order of their first images."""

    def place(unit_id: str) -> tuple[str, str]:
        name = f"images/{unit_id}.parquet"
        rows = read_table(table, name, schema=IMAGES, columns=["image_id"])
        return first_image(rows), unit_id

    ordered = sorted(map_ahead(place, units, num_threads=_READERS, ahead=2 * _READERS))

    def checked(unit_id: str) -> UnitRows:
        unit = read_unit(table, unit_id, segments=spec.segments_schema)
        for part, rows in (("images", unit.images), ("segments", unit.segments)):
            _check(rows, name=f"{part}/{unit_id}.parquet", expected=spec.file_metadata)
        counted = pa.compute.sum(unit.images["num_segments"]).as_py() or 0
        if counted != unit.segments.num_rows:
            raise DamagedFile(
                f"segments/{unit_id}.parquet",
                f"it has {unit.segments.num_rows} rows, but `images` counts {counted}",
            )
        return unit

    units = [unit for _, unit in ordered]
    yield from map_ahead(checked, units, num_threads=_READERS, ahead=2 * _READERS)


def _check(rows: pa.Table, *, name: str, expected: dict[str, str]) -> None:
    found = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
    differing = [key for key, value in expected.items() if found.get(key) != value]
    if differing:
        raise DamagedFile(
            name, f"its {differing[0]} differs from that of the table: {found.get(differing[0])}"
        )


class _Output:
    """Writes the files of one folder; each ends with the unit that reaches the target size."""

    def __init__(
        self, *, table: TableStore, folder: str, target_bytes: int, spec: TableSpec
    ) -> None:
        self._table, self._folder, self._target = table, folder, target_bytes
        self._spec = spec
        self._open: dict[Part, ParquetInMemory] | None = None
        self._units: list[str] = []
        self._files: list[CompactedFile] = []
        self.file_of: dict[str, int] = {}

    def add(self, unit: UnitRows) -> None:
        if self._open is None:
            metadata, segments = self._spec.file_metadata, self._spec.segments_schema
            self._open = {
                "segments": _started(compacted_segments(segments).with_metadata(metadata)),
                "images": _started(IMAGES.with_metadata(metadata)),
            }
        ids = pa.repeat(pa.scalar(unit.unit_id), unit.segments.num_rows)
        self._open["segments"].add(unit.segments.append_column("unit_id", ids))
        self._open["images"].add(unit.images)
        self._units.append(unit.unit_id)
        if sum(writer.num_bytes for writer in self._open.values()) >= self._target:
            self._finish(self._open)

    def close(self) -> tuple[CompactedFile, ...]:
        if self._open is not None:
            self._finish(self._open)
        return tuple(self._files)

    def _finish(self, writers: dict[Part, ParquetInMemory]) -> None:
        number = len(self._files)
        names: dict[Part, str] = {}
        size = 0
        for part, writer in writers.items():
            names[part] = join(self._folder, part, f"{number:03}.parquet")
            data = writer.close()
            size += len(data)
            self._table.storage.write(self._table.file(names[part]), data)
        file = CompactedFile(
            segments=names["segments"],
            images=names["images"],
            num_units=len(self._units),
            num_images=writers["images"].num_rows,
            num_segments=writers["segments"].num_rows,
            num_bytes=size,
        )
        self._files.append(file)
        self.file_of |= dict.fromkeys(self._units, number)
        self._units, self._open = [], None


def _started(schema: pa.Schema) -> ParquetInMemory:
    return ParquetInMemory(schema, options=parquet_options(schema), group_rows=_ROW_GROUP_ROWS)


def _units_parquet(file_of: Mapping[str, int]) -> bytes:
    units = sorted(file_of)
    rows = pa.table([units, [file_of[unit] for unit in units]], schema=UNITS)
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", use_dictionary=False)
    return buffer.getvalue()
