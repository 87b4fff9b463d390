"""Reads manifests: csv, jsonl or Parquet files whose rows name images elsewhere.

Takes the file of a listing; `corpus.py` makes sources of the entries. `columns.py` finds the column
of locations. An entry without a readable location becomes an image in error. Where entries cannot
be told apart (an unclosed quote, a line that is no JSON), an error names the file and the line.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.columns import Columns, UnsureColumns, columns_of
from pipeline.corpora.csv_rows import csv_rows
from pipeline.corpora.decoding import ImageError
from pipeline.corpora.lookups import Lookups
from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.runtime.threads import map_ahead
from pipeline.storage import File, Storage, StorageFault, is_complete, join
from pipeline.storage.protocols import reason_impossible

_NUM_LOOKUPS = 32
_FIRST_LINES = 100
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NO_LOCATION = re.compile(r"#(line|row)=\d+$")


SLICE = pa.schema(
    [
        ("slice_of", pa.string()),
        ("slice_start", pa.int64()),
        ("slice_stop", pa.int64()),
        ("slice_etag", pa.string()),
    ]
)
"""Columns of a Parquet manifest for entries that are a part of an archive or Parquet file.

`slice_of` is the `Source.name` of the whole, null where an entry is a file; the others are the
source's `start`, `stop` and `etag`. The part is not read of another version of the file."""


@dataclass(frozen=True)
class Slice:
    """The part of an archive or Parquet file that an entry names."""

    name: str
    start: int
    stop: int | None
    etag: str


@dataclass(frozen=True)
class ManifestEntry:
    """A row of a manifest."""

    place: str
    """Its row in the manifest, as `line 3`."""
    uri: str | None
    """None where the row has no readable location."""
    image_id: str | None
    part: Slice | None = None
    """None where the whole file is meant."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A file that names images."""

    entries: Iterator[ManifestEntry]
    notice: str | None
    """A remark for people on how it is read."""


def read_manifest(file: File, *, storage: Storage, is_asked_for: bool) -> Manifest:
    """Reads the entries of a csv, jsonl or Parquet file.

    Args:
        is_asked_for: true if the user named this file itself, not a folder with it.

    Raises:
        UnsureColumns: it is no manifest, or no column certainly holds the locations.
    """
    open_entries: Callable[..., tuple[Columns, Iterator[ManifestEntry]]] = _jsonl_entries
    if file.uri.lower().endswith(".parquet"):
        open_entries = _parquet_entries
    elif file.uri.lower().endswith((".csv", ".tsv")):
        open_entries = _csv_entries
    columns, entries = open_entries(file, storage)
    if not (columns.is_sure or is_asked_for):
        raise UnsureColumns(f"its column {columns.location} may hold locations")
    notice = f"{file.uri}: {columns.notice}" if columns.notice else None
    return Manifest(entries=entries, notice=notice)


def look_up_files(
    entries: Iterator[ManifestEntry], manifest: File, *, storage: Storage
) -> Iterator[tuple[ManifestEntry, File | StorageFault]]:
    """Yields the entries with their files or faults; many files are looked up at once."""
    folder = manifest.uri.rsplit("/", 1)[0]
    lookups = Lookups(storage)

    def file_of(entry: ManifestEntry) -> tuple[ManifestEntry, File | StorageFault]:
        if entry.uri is None:
            kind, _, number = entry.place.partition(" ")
            return entry, File(uri=f"{manifest.uri}#{kind}={number}", size=0, etag="")
        location = entry.uri if is_complete(entry.uri) else join(folder, entry.uri)
        try:
            # An absent file stays an entry: reading it gives a row with an error.
            return entry, lookups.look_up(storage.absolute(location))
        except ValueError as error:
            raise ValueError(f"{manifest.uri}, {entry.place}: {error}") from error

    yield from map_ahead(file_of, entries, num_threads=_NUM_LOOKUPS, ahead=4 * _NUM_LOOKUPS)


def absence(uri: str) -> ImageError:
    """Returns the error of a location that was absent when the corpus was listed."""
    if _NO_LOCATION.search(uri):
        return ImageError(
            "BadLocation",
            "this row of the manifest must name one location, as text in the column of locations; "
            "correct or remove it",
        )
    if reason := reason_impossible(uri):
        return ImageError("BadLocation", reason)
    return ImageError("NotFound", "there was no such object when the corpus was listed")


def _csv_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[ManifestEntry]]:
    table = csv_rows(_text(file, storage), name=file.uri)
    columns = columns_of(table.columns, separator=table.separator)
    location = table.columns.index(columns.location)
    image_id = None if columns.image_id is None else table.columns.index(columns.image_id)

    def entries() -> Iterator[ManifestEntry]:
        for line, row in table.rows(location=location):
            if len(table.columns) == 1:  # a name may have commas
                row = [table.separator.join(row)]
            # A surplus separator shifts the values behind it.
            if any(row[len(table.columns) :]) and (location > 0 or image_id is not None):
                row = []
            uri, own = (
                None if place is None or place >= len(row) else row[place]
                for place in (location, image_id)
            )
            yield _entry(f"line {line}", uri, own)

    return columns, entries()


def _jsonl_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[ManifestEntry]]:
    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(_text(file, storage), 1):
            if line.strip():
                yield number, _parsed(line)

    first: list[dict[str, Any]] = []
    for number, row in rows():
        if not isinstance(row, dict) or number > _FIRST_LINES:
            break
        first.append(row)
    if not first:
        raise UnsureColumns("the first line of a manifest must be a JSON object with a `uri`")
    columns = columns_of(list(dict.fromkeys(name for row in first for name in row)))

    def entries() -> Iterator[ManifestEntry]:
        for number, row in rows():
            if not isinstance(row, dict):
                raise ValueError(
                    f"{file.uri}, line {number}: a manifest's line must be a JSON object with a "
                    f"`{columns.location}`, got {str(row)[:80]!r}"
                )
            image_id = None if columns.image_id is None else row.get(columns.image_id)
            yield _entry(f"line {number}", row.get(columns.location), image_id)

    return columns, entries()


def _parsed(line: str) -> Any:
    """Parses a line; returns the line itself where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _parquet_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[ManifestEntry]]:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        there = pq.ParquetFile(data).schema_arrow.names
        columns = columns_of(there)
    has_slices = {*SLICE.names} <= {*there}

    def entries() -> Iterator[ManifestEntry]:
        number = 0
        names = [name for name in (columns.location, columns.image_id) if name is not None]
        needed = [*names, *(SLICE.names if has_slices else ())]
        try:
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                for batch in pq.ParquetFile(data).iter_batches(batch_size=8192, columns=needed):
                    for row in batch.to_pylist():
                        entry = _entry(f"row {number}", *(row[name] for name in names))
                        part = _slice(row) if has_slices else None
                        yield replace(entry, part=part) if part is not None else entry
                        number += 1
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            raise ValueError(
                f"{file.uri}: from row {number} on, the Parquet file cannot be read: {error}"
            ) from error

    return columns, entries()


def _slice(row: Mapping[str, Any]) -> Slice | None:
    name, start, stop, etag = (row[name] for name in SLICE.names)
    return None if name is None else Slice(name, start or 0, stop, etag or "")


def _entry(place: str, uri: Any, image_id: Any = None) -> ManifestEntry:
    """Makes an entry. Ids may be numbers; an empty one counts as none."""
    own = None if image_id in (None, "") else _written(str(image_id))
    location = uri if isinstance(uri, str) and uri.strip() else None
    return ManifestEntry(place, location, own)


def _written(text: str) -> str:
    """Escapes what UTF-8 cannot hold: JSON may have half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(file: File, storage: Storage) -> io.TextIOWrapper:
    data = storage.open(file.uri, etag=file.etag, size=file.size)
    is_utf16 = data.peek(2)[:2] in _UTF16_MARKS
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    return io.TextIOWrapper(data, encoding, errors="replace", newline="")
