"""The corpus: which sources lie behind a location.

A listing is read as it comes: millions of files of a prefix take no memory, and of a manifest's
entries only a digest is kept.

Takes what the user names (a prefix, an archive, a Parquet file, a manifest), gives whole `Source`s
in a fixed order; `labelling/planning.py` cuts and groups them.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.corpora.formats import IMAGE_ENDINGS
from pipeline.corpora.lookups import Lookups, refusal
from pipeline.corpora.passed_over import OF_NO_KNOWN_KIND, PassedOver
from pipeline.corpora.reading import ReadSettings, bytes_column, parquet_schema
from pipeline.corpora.sources import Kind, Source
from pipeline.corpora.visible import VisibleFiles
from pipeline.storage import File, Storage, StorageFault, below, is_complete, join
from pipeline.threads import map_ahead

ARCHIVE_ENDINGS = (
    "tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tbz", "tb2", "tar.xz", "txz", "tar.zst", "tzst",
)  # fmt: skip
MANIFEST_ENDINGS = ("csv", "jsonl", "ndjson")

_KINDS: list[tuple[Kind | str, tuple[str, ...]]] = [
    ("file", tuple(f".{ending}" for ending in IMAGE_ENDINGS)),
    ("tar", tuple(f".{ending}" for ending in ARCHIVE_ENDINGS)),
    ("parquet", (".parquet",)),
    ("manifest", tuple(f".{ending}" for ending in MANIFEST_ENDINGS)),
]
_LOOKS_AT_ONCE = 32
_MOST_NAMED = 1000
_MOST_FAULTS = 5


@dataclass
class Listing:
    """What a corpus holds, as far as a listing tells; all but `root` grows while it is read."""

    root: str
    sources: Iterator[Source]
    passed_over: PassedOver = field(default_factory=PassedOver)
    """Files that are no source, by reason."""
    doubled: list[str] = field(default_factory=list)
    """Locations that a manifest, or a manifest and its prefix, name once more; the first
    thousand."""
    more_doubled: int = 0
    """Number of those that are not named."""
    waiting: int = 0
    """Files that are left for another time."""
    waiting_absent: int = 0
    """Those of them that are not there."""
    out_of_reach: int = 0
    """Files that the storage could say nothing of."""
    faults: list[str] = field(default_factory=list)
    """Why, of the first of them."""

    def leave(self, fault: StorageFault) -> None:
        self.out_of_reach += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(str(fault))

    def pass_over(self, uri: str, *, reason: str) -> None:
        """Counts a file that could hold images and is no source; the reason is a few plain words,
        as "hidden"."""
        self.passed_over.add(uri, reason=reason)

    def take_once(self, uri: str) -> None:
        if len(self.doubled) < _MOST_NAMED:
            self.doubled.append(uri)
        else:
            self.more_doubled += 1


def list_corpus(
    uri: str,
    *,
    storage: Storage,
    settings: ReadSettings,
    is_planned: Callable[[File], bool] = lambda file: False,
    waits: Callable[[File], bool] = lambda file: False,
) -> Listing:
    """The sources of a corpus, each once, in the order of the listing.

    Kinds may be mixed in one prefix. A Parquet file with a column of bytes holds images; one with a
    column `uri`, like a csv or jsonl file with one, is a manifest, and its entries are sources.

    Args:
        is_planned: whether an earlier plan holds a Parquet file, so that none has to look inside.
        waits: whether a file is to be left for another time.

    Raises:
        ValueError: nothing lies at the location.
    """
    place = storage.absolute(uri)
    single = storage.file(place)
    root = place.rsplit("/", 1)[0] if single else place
    listing = Listing(root=root, sources=iter(()))
    visible = None
    if single is not None:
        files = iter([single])
    else:
        visible = VisibleFiles(root=root, storage=storage, of_a_kind=kind_of)
        files = visible.among(storage.files(place), pass_over=listing.pass_over)
    found = _found(
        _settled(files, listing, waits=waits),
        listing,
        storage=storage,
        settings=settings,
        is_planned=is_planned,
        waits=waits,
    )
    listing.sources = _once(found, listing, visible=visible)
    return listing


@dataclass(frozen=True)
class _Found:
    source: Source
    is_named: bool = False
    """By a manifest; otherwise the listing itself has it."""


def _found(
    files: Iterable[File],
    listing: Listing,
    *,
    storage: Storage,
    settings: ReadSettings,
    is_planned: Callable[[File], bool],
    waits: Callable[[File], bool],
) -> Iterator[_Found]:
    for file in files:
        kind = kind_of(file.uri)
        name = below(file.uri, root=listing.root)
        is_left = kind == "parquet" and (not file.etag or is_planned(file))
        if kind in ("file", "tar") or is_left:
            yield _Found(_source(file, name=name, kind=str(kind)))
            continue
        if not file.etag:  # nothing lies where its link leads
            listing.pass_over(file.uri, reason=OF_NO_KNOWN_KIND)
            continue
        entries: Callable[[File, Storage], Iterator[_Entry] | None] | None = None
        if kind == "parquet":
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                columns = parquet_schema(data)
            # Unreadable: reading it gives the row that says so.
            if columns is None or bytes_column(columns, settings=settings) is not None:
                yield _Found(_source(file, name=name, kind="parquet"))
                continue
            if "uri" in columns.names:
                entries = _parquet_entries
        elif file.uri.lower().endswith(".csv"):
            entries = _csv_entries
        elif kind == "manifest":
            entries = _jsonl_entries
        if entries is None or (rows := entries(file, storage)) is None:
            listing.pass_over(file.uri, reason=OF_NO_KNOWN_KIND)
            continue
        for entry, there in _looked_at(rows, file, storage=storage):
            if isinstance(there, StorageFault):
                listing.leave(there)
            elif waits(there):
                listing.waiting += 1
                listing.waiting_absent += not there.etag
            else:
                source = _named_source(entry, there, root=listing.root)
                yield _Found(source, is_named=True)


def _settled(
    files: Iterable[File], listing: Listing, *, waits: Callable[[File], bool]
) -> Iterator[File]:
    for file in files:
        if waits(file):
            listing.waiting += 1
        elif not file.may_be_read and kind_of(file.uri) is not None:
            listing.leave(refusal(file))
        else:
            yield file


def _once(
    found: Iterable[_Found], listing: Listing, *, visible: VisibleFiles | None
) -> Iterator[Source]:
    """Each source once. A prefix has each of its files once: only manifests repeat one."""
    named: set[bytes] = set()
    # That the prefix had so far: whether one is a source, nobody knows before it is opened.
    parquet_files: set[str] = set()

    def is_listed(source: Source) -> bool:
        """Whether the prefix has what a manifest names; there it is taken, under its path."""
        if source.uri in parquet_files:
            return True
        is_known = kind_of(source.uri) in ("file", "tar") and source.etag != ""
        return is_known and visible is not None and source.uri in visible

    for each in found:
        source = each.source
        if each.is_named:
            digest = _digest(source)
            is_doubled = digest in named or is_listed(source)
            named.add(digest)
        elif source.kind == "parquet":
            is_doubled = _digest(source) in named
            parquet_files.add(source.uri)
        else:
            is_doubled = False
        if is_doubled:
            listing.take_once(source.uri)
        else:
            yield source


def kind_of(uri: str) -> Kind | str | None:
    """The kind of file that its ending promises: a source's, `manifest`, or None."""
    name = uri.rsplit("/", 1)[-1].lower()
    for kind, endings in _KINDS:
        if name.endswith(endings):
            return kind
    return None


def _digest(source: Source) -> bytes:
    return hashlib.blake2b(source.uri.encode(), digest_size=16).digest()


def _source(file: File, *, name: str, kind: str) -> Source:
    return Source(
        uri=file.uri,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        etag=file.etag,
        size=file.size,
        num_images=1 if kind == "file" else None,
    )


@dataclass(frozen=True)
class _Entry:
    uri: str
    image_id: str | None


def _looked_at(
    entries: Iterable[_Entry], manifest: File, *, storage: Storage
) -> Iterator[tuple[_Entry, File | StorageFault]]:
    """The entries with what the store says of them; it is asked for many at a time."""
    folder = manifest.uri.rsplit("/", 1)[0]

    lookups = Lookups(storage)

    def look(entry: _Entry) -> tuple[_Entry, File | StorageFault]:
        uri = entry.uri if is_complete(entry.uri) else join(folder, entry.uri)
        # An entry that is not there keeps its place: reading it gives a row that says so.
        return entry, lookups.look(storage.absolute(uri))

    yield from map_ahead(look, entries, num_threads=_LOOKS_AT_ONCE, ahead=4 * _LOOKS_AT_ONCE)


def _named_source(entry: _Entry, file: File, *, root: str) -> Source:
    kind = kind_of(file.uri)
    name = entry.image_id or below(file.uri, root=root)
    return _source(file, name=name, kind=kind if kind in ("tar", "parquet") else "file")


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
