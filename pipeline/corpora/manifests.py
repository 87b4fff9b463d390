"""Manifests: the entries of a csv, jsonl or Parquet file that names images lying elsewhere.

Takes the file as the listing has it; `corpus.py` makes sources of the entries. `columns.py` says
which column holds the locations. An entry without a location that could be read keeps its place: it
becomes an image in error. What makes it unsure where entries begin and end (a quote that is never
closed, a line that is no JSON) stops with the file and the line.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.corpora.columns import Columns, UnsureColumns, columns_of
from pipeline.corpora.csv_rows import csv_rows
from pipeline.corpora.decoding import ImageError
from pipeline.corpora.lookups import Lookups
from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_of_the_system
from pipeline.runtime.threads import map_ahead
from pipeline.storage import File, Storage, StorageFault, is_complete, join
from pipeline.storage.protocols import why_never

_LOOKS_AT_ONCE = 32
_FIRST_LINES = 100
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NO_LOCATION = re.compile(r"#(line|row)=\d+$")


@dataclass(frozen=True)
class Entry:
    """A row of a manifest."""

    place: str
    """In the manifest, as `line 3`."""
    uri: str | None
    """None where the row has no location that could be read."""
    image_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A file that names images."""

    entries: Iterator[Entry]
    notice: str | None = None
    """What people should know of how it is read."""


def read_manifest(file: File, *, storage: Storage, is_asked_for: bool) -> Manifest:
    """The entries of a csv, jsonl or Parquet file.

    Args:
        is_asked_for: whether the user named this very file, and not a folder with it.

    Raises:
        UnsureColumns: it is no manifest, or nobody can tell which column holds the locations.
    """
    open_entries: Callable[..., tuple[Columns, Iterator[Entry]]] = _jsonl_entries
    if file.uri.lower().endswith(".parquet"):
        open_entries = _parquet_entries
    elif file.uri.lower().endswith((".csv", ".tsv")):
        open_entries = _csv_entries
    columns, entries = open_entries(file, storage)
    if not (columns.is_sure or is_asked_for):
        raise UnsureColumns(f"its column {columns.location} may hold locations")
    notice = f"{file.uri}: {columns.notice}" if columns.notice else None
    return Manifest(entries=entries, notice=notice)


def looked_at(
    entries: Iterator[Entry], manifest: File, *, storage: Storage
) -> Iterator[tuple[Entry, File | StorageFault]]:
    """The entries with what the store says of them; it is asked for many at a time."""
    folder = manifest.uri.rsplit("/", 1)[0]

    lookups = Lookups(storage)

    def look(entry: Entry) -> tuple[Entry, File | StorageFault]:
        if entry.uri is None:
            kind, _, number = entry.place.partition(" ")
            return entry, File(uri=f"{manifest.uri}#{kind}={number}", size=0, etag="")
        location = entry.uri if is_complete(entry.uri) else join(folder, entry.uri)
        try:
            # An entry that is not there keeps its place: reading it gives a row that says so.
            return entry, lookups.look(storage.absolute(location))
        except ValueError as error:
            raise ValueError(f"{manifest.uri}, {entry.place}: {error}") from error

    yield from map_ahead(look, entries, num_threads=_LOOKS_AT_ONCE, ahead=4 * _LOOKS_AT_ONCE)


def absence(uri: str) -> ImageError:
    """Why there is nothing at a location that was absent when the corpus was listed."""
    if _NO_LOCATION.search(uri):
        return ImageError(
            "BadLocation",
            "this row of the manifest must name one location, as text in the column of locations; "
            "correct or remove it",
        )
    if reason := why_never(uri):
        return ImageError("BadLocation", reason)
    return ImageError("NotFound", "there was no such object when the corpus was listed")


def _csv_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[Entry]]:
    table = csv_rows(_text(file, storage), name=file.uri)
    columns = columns_of(table.columns, separator=table.separator)
    location = table.columns.index(columns.location)
    image_id = None if columns.image_id is None else table.columns.index(columns.image_id)

    def entries() -> Iterator[Entry]:
        for line, row in table.rows(location=location):
            if len(table.columns) == 1:  # a name may have commas
                row = [table.separator.join(row)]
            # A separator too many moves what stands behind it.
            if any(row[len(table.columns) :]) and (location > 0 or image_id is not None):
                row = []
            uri, own = (
                None if place is None or place >= len(row) else row[place]
                for place in (location, image_id)
            )
            yield _entry(f"line {line}", uri, own)

    return columns, entries()


def _jsonl_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[Entry]]:
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

    def entries() -> Iterator[Entry]:
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
    """The line's value; the line itself where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _parquet_entries(file: File, storage: Storage) -> tuple[Columns, Iterator[Entry]]:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        columns = columns_of(pq.ParquetFile(data).schema_arrow.names)

    def entries() -> Iterator[Entry]:
        number = 0
        names = [name for name in (columns.location, columns.image_id) if name is not None]
        try:
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                for batch in pq.ParquetFile(data).iter_batches(batch_size=8192, columns=names):
                    for row in batch.to_pylist():
                        yield _entry(f"row {number}", *(row[name] for name in names))
                        number += 1
        except PARQUET_ERRORS as error:
            raise_if_of_the_system(error)
            raise ValueError(
                f"{file.uri}: from row {number} on, the Parquet file cannot be read: {error}"
            ) from error

    return columns, entries()


def _entry(place: str, uri: Any, image_id: Any = None) -> Entry:
    """Ids may be numbers; an empty one is none."""
    own = None if image_id in (None, "") else _written(str(image_id))
    location = uri if isinstance(uri, str) and uri.strip() else None
    return Entry(place, location, own)


def _written(text: str) -> str:
    """The text as UTF-8 can hold it: JSON may have halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(file: File, storage: Storage) -> io.TextIOWrapper:
    data = storage.open(file.uri, etag=file.etag, size=file.size)
    is_utf16 = data.peek(2)[:2] in _UTF16_MARKS
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    return io.TextIOWrapper(data, encoding, errors="replace", newline="")
