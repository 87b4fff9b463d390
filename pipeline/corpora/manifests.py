"""Manifests: the entries of a csv, jsonl or Parquet file that names images lying elsewhere.

Takes the file as the listing has it; `corpus.py` makes sources of the entries.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.storage import File, Storage, join
from pipeline.threads import map_ahead

_LOOKS_AT_ONCE = 32


@dataclass(frozen=True)
class Entry:
    uri: str
    image_id: str | None


def looked_at(
    entries: Iterable[Entry], manifest: File, *, storage: Storage
) -> Iterator[tuple[Entry, File]]:
    """The entries with what the store says of them; it is asked for many at a time."""
    folder = manifest.uri.rsplit("/", 1)[0]

    def look(entry: Entry) -> tuple[Entry, File]:
        absolute = "://" in entry.uri or entry.uri.startswith("/")
        uri = storage.absolute(entry.uri if absolute else join(folder, entry.uri))
        # An entry that is not there keeps its place: reading it gives a row that says so.
        return entry, storage.file(uri) or File(uri=uri, size=0, etag="")

    yield from map_ahead(look, entries, num_threads=_LOOKS_AT_ONCE, ahead=4 * _LOOKS_AT_ONCE)


def csv_entries(file: File, storage: Storage) -> Iterator[Entry] | None:
    text = io.TextIOWrapper(
        storage.open(file.uri, etag=file.etag, size=file.size), "utf-8-sig", errors="replace"
    )
    rows = csv.DictReader(text)
    try:
        is_manifest = "uri" in (rows.fieldnames or ())
    except csv.Error:  # it only ends like one
        return None
    return _stated(rows) if is_manifest else None


def jsonl_entries(file: File, storage: Storage) -> Iterator[Entry] | None:
    def lines() -> Iterator[tuple[int, str]]:
        text = io.TextIOWrapper(
            storage.open(file.uri, etag=file.etag, size=file.size), "utf-8", errors="replace"
        )
        return ((number, line) for number, line in enumerate(text, 1) if line.strip())

    def parsed(number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
            row["uri"]
            return row
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file.uri}, line {number}: a manifest's line must be a JSON object with a "
                f"`uri`, got {line[:80]!r}"
            ) from error

    try:
        parsed(*next(lines(), (1, "")))
    except ValueError:
        return None
    return _stated(parsed(number, line) for number, line in lines())


def parquet_entries(file: File, storage: Storage) -> Iterator[Entry]:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        parquet = pq.ParquetFile(data)
        columns = [c for c in ("uri", "image_id") if c in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=8192, columns=columns):
            yield from _stated(batch.to_pylist())


def _stated(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """The entries that name a location; ids may be numbers."""
    for row in rows:
        if row["uri"]:
            image_id = row.get("image_id")
            yield Entry(str(row["uri"]), None if image_id in (None, "") else str(image_id))
