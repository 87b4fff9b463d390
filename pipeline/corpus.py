"""The corpus: which sources lie behind a location.

Takes what the user names (a prefix, an archive, a Parquet file, a manifest), gives whole `Source`s
in a fixed order; `labelling/planning.py` cuts and groups them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.reading import ReadSettings, bytes_column, parquet_schema
from pipeline.sources import Kind, Source
from pipeline.storage import File, Storage, join

IMAGE_ENDINGS = (
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff",
    "ppm", "pgm", "pnm", "avif", "jp2",
)  # fmt: skip
ARCHIVE_ENDINGS = ("tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst")
MANIFEST_ENDINGS = ("csv", "jsonl", "ndjson")

_LOOKS_AT_ONCE = 32


@dataclass
class Listing:
    """What a corpus holds, as far as a listing tells; `passed_over` grows while it is read."""

    root: str
    sources: Iterator[Source]
    passed_over: list[str] = field(default_factory=list)
    """Locations of files of no known kind."""
    doubled: list[str] = field(default_factory=list)
    """Locations that a manifest, or a manifest and its prefix, name once more."""


def list_corpus(
    uri: str,
    *,
    storage: Storage,
    settings: ReadSettings,
    is_planned: Callable[[File], bool] = lambda file: False,
) -> Listing:
    """The sources of a corpus, each once, in the order of the listing.

    Kinds may be mixed in one prefix. A Parquet file with a column of bytes holds images; one with a
    column `uri`, like a csv or jsonl file with one, is a manifest, and its entries are sources.

    Args:
        is_planned: whether an earlier plan holds a Parquet file, so that none has to look inside.

    Raises:
        ValueError: nothing lies at the location.
    """
    place = storage.absolute(uri)
    single = storage.file(place)
    root = place.rsplit("/", 1)[0] if single else place
    listing = Listing(root=root, sources=iter(()))
    files = iter([single]) if single else _visible(storage.files(place), root=root)
    listing.sources = _once(
        _sources(files, listing, storage=storage, settings=settings, is_planned=is_planned),
        listing.doubled,
    )
    return listing


def _sources(
    files: Iterable[File],
    listing: Listing,
    *,
    storage: Storage,
    settings: ReadSettings,
    is_planned: Callable[[File], bool],
) -> Iterator[Source]:
    for file in files:
        kind = kind_of(file.uri)
        name = _below(file.uri, root=listing.root)
        if kind in ("file", "tar") or (kind == "parquet" and is_planned(file)):
            yield _source(file, name=name, kind=str(kind))
            continue
        entries: Callable[[File, Storage], Iterator[_Entry] | None] | None = None
        if kind == "parquet":
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                columns = parquet_schema(data)
            # Unreadable: reading it gives the row that says so.
            if columns is None or bytes_column(columns, settings=settings) is not None:
                yield _source(file, name=name, kind="parquet")
                continue
            if "uri" in columns.names:
                entries = _parquet_entries
        elif file.uri.lower().endswith(".csv"):
            entries = _csv_entries
        elif kind == "manifest":
            entries = _jsonl_entries
        if entries is None or (rows := entries(file, storage)) is None:
            listing.passed_over.append(file.uri)
            continue
        yield from _manifest_sources(rows, file, listing=listing, storage=storage)


def kind_of(uri: str) -> Kind | str | None:
    """The kind of file that its ending promises: a source's, `manifest`, or None."""
    name = uri.rsplit("/", 1)[-1].lower()
    kinds: list[tuple[Kind | str, tuple[str, ...]]] = [
        ("file", IMAGE_ENDINGS),
        ("tar", ARCHIVE_ENDINGS),
        ("parquet", ("parquet",)),
        ("manifest", MANIFEST_ENDINGS),
    ]
    for kind, endings in kinds:
        if name.endswith(tuple(f".{ending}" for ending in endings)):
            return kind
    return None


def _visible(files: Iterable[File], *, root: str) -> Iterator[File]:
    """Without hidden files and those that other programs write beside data (`_SUCCESS`, `.crc`)."""
    for file in files:
        names = _below(file.uri, root=root).split("/")
        if not any(name.startswith((".", "_")) for name in names):
            yield file


def _once(sources: Iterable[Source], doubled: list[str]) -> Iterator[Source]:
    seen: set[str] = set()
    for source in sources:
        if source.uri in seen:
            doubled.append(source.uri)
            continue
        seen.add(source.uri)
        yield source


def _source(file: File, *, name: str, kind: str) -> Source:
    return Source(
        uri=file.uri,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        etag=file.etag,
        size=file.size,
        num_images=1 if kind == "file" else None,
    )


def _below(uri: str, *, root: str) -> str:
    """The path relative to the root; the whole location where it lies elsewhere."""
    return uri.removeprefix(f"{root.rstrip('/')}/")


@dataclass(frozen=True)
class _Entry:
    uri: str
    image_id: str | None


def _manifest_sources(
    entries: Iterable[_Entry], manifest: File, *, listing: Listing, storage: Storage
) -> Iterator[Source]:
    """The entries as sources, with etag and size from the store, asked for many at a time."""
    folder = manifest.uri.rsplit("/", 1)[0]

    def look(entry: _Entry) -> Source:
        absolute = "://" in entry.uri or entry.uri.startswith("/")
        uri = storage.absolute(entry.uri if absolute else join(folder, entry.uri))
        # An entry that is not there keeps its place: reading it gives a row that says so.
        file = storage.file(uri) or File(uri=uri, size=0, etag="")
        kind = kind_of(uri)
        name = entry.image_id or _below(uri, root=listing.root)
        return _source(file, name=name, kind=kind if kind in ("tar", "parquet") else "file")

    yield from _ahead(look, entries)


def _ahead(look: Callable[[_Entry], Source], entries: Iterable[_Entry]) -> Iterator[Source]:
    """`map` in threads, in order, that runs only a little ahead of its reader."""
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        waiting = []
        for entry in entries:
            waiting.append(pool.submit(look, entry))
            if len(waiting) >= 4 * _LOOKS_AT_ONCE:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _csv_entries(file: File, storage: Storage) -> Iterator[_Entry] | None:
    text = io.TextIOWrapper(
        storage.open(file.uri, etag=file.etag, size=file.size), "utf-8-sig", errors="replace"
    )
    rows = csv.DictReader(text)
    try:
        is_manifest = "uri" in (rows.fieldnames or ())
    except csv.Error:  # it only ends like one
        return None
    return _stated(rows) if is_manifest else None


def _jsonl_entries(file: File, storage: Storage) -> Iterator[_Entry] | None:
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


def _parquet_entries(file: File, storage: Storage) -> Iterator[_Entry]:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        parquet = pq.ParquetFile(data)
        columns = [c for c in ("uri", "image_id") if c in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=8192, columns=columns):
            yield from _stated(batch.to_pylist())


def _stated(rows: Iterable[Mapping[str, Any]]) -> Iterator[_Entry]:
    """The entries that name a location; ids may be numbers."""
    for row in rows:
        if row["uri"]:
            image_id = row.get("image_id")
            yield _Entry(str(row["uri"]), None if image_id in (None, "") else str(image_id))
