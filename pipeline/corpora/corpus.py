"""The corpus: which sources lie behind a location.

A listing is read as it comes: millions of files of a prefix take no memory, and of a manifest's
entries only a digest is kept.

Takes what the user names (a prefix, an archive, a Parquet file, a manifest), gives whole `Source`s
in a fixed order; `labelling/planning.py` cuts and groups them.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.corpora.manifests import (
    Entry,
    csv_entries,
    jsonl_entries,
    looked_at,
    parquet_entries,
)
from pipeline.corpora.parquet_images import bytes_column, parquet_schema
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Kind, Source
from pipeline.storage import File, Storage

IMAGE_ENDINGS = (
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff",
    "ppm", "pgm", "pnm", "avif", "jp2",
)  # fmt: skip
ARCHIVE_ENDINGS = ("tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst")
MANIFEST_ENDINGS = ("csv", "jsonl", "ndjson")

_KINDS: list[tuple[Kind | str, tuple[str, ...]]] = [
    ("file", tuple(f".{ending}" for ending in IMAGE_ENDINGS)),
    ("tar", tuple(f".{ending}" for ending in ARCHIVE_ENDINGS)),
    ("parquet", (".parquet",)),
    ("manifest", tuple(f".{ending}" for ending in MANIFEST_ENDINGS)),
]
_MOST_NAMED = 1000
_HIDDEN = re.compile(r"(^|/)[._]")


@dataclass
class Listing:
    """What a corpus holds, as far as a listing tells; all but `root` grows while it is read."""

    root: str
    sources: Iterator[Source]
    passed_over: list[str] = field(default_factory=list)
    """Locations of files of no known kind; the first thousand."""
    more_passed_over: int = 0
    """Number of those that are not named."""
    doubled: list[str] = field(default_factory=list)
    """Locations that a manifest, or a manifest and its prefix, name once more; the first
    thousand."""
    more_doubled: int = 0
    """Number of those that are not named."""
    waiting: int = 0
    """Files that are left for another time."""

    def pass_over(self, uri: str) -> None:
        if len(self.passed_over) < _MOST_NAMED:
            self.passed_over.append(uri)
        else:
            self.more_passed_over += 1

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
    files = iter([single]) if single else _visible(storage.files(place), root=root)
    found = _found(
        _settled(files, listing, waits=waits),
        listing,
        storage=storage,
        settings=settings,
        is_planned=is_planned,
        waits=waits,
    )
    listing.sources = _once(found, listing, is_prefix=single is None)
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
        name = _below(file.uri, root=listing.root)
        if kind in ("file", "tar") or (kind == "parquet" and is_planned(file)):
            yield _Found(_source(file, name=name, kind=str(kind)))
            continue
        entries: Callable[[File, Storage], Iterator[Entry] | None] | None = None
        if kind == "parquet":
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                columns = parquet_schema(data)
            # Unreadable: reading it gives the row that says so.
            if columns is None or bytes_column(columns, settings=settings) is not None:
                yield _Found(_source(file, name=name, kind="parquet"))
                continue
            if "uri" in columns.names:
                entries = parquet_entries
        elif file.uri.lower().endswith(".csv"):
            entries = csv_entries
        elif kind == "manifest":
            entries = jsonl_entries
        if entries is None or (rows := entries(file, storage)) is None:
            listing.pass_over(file.uri)
            continue
        for entry, there in looked_at(rows, file, storage=storage):
            if waits(there):
                listing.waiting += 1
            else:
                source = _named_source(entry, there, root=listing.root)
                yield _Found(source, is_named=True)


def _settled(
    files: Iterable[File], listing: Listing, *, waits: Callable[[File], bool]
) -> Iterator[File]:
    for file in files:
        if waits(file):
            listing.waiting += 1
        else:
            yield file


def _once(found: Iterable[_Found], listing: Listing, *, is_prefix: bool) -> Iterator[Source]:
    """Each source once. A prefix has each of its files once: only manifests repeat one."""
    named: set[bytes] = set()
    # That the prefix had so far: whether one is a source, nobody knows before it is opened.
    parquet_files: set[str] = set()

    def is_listed(source: Source) -> bool:
        """Whether the prefix has what a manifest names; there it is taken, under its path."""
        if source.uri in parquet_files:
            return True
        is_known = kind_of(source.uri) in ("file", "tar") and source.etag != ""
        return is_prefix and is_known and _is_visible(source.uri, root=listing.root)

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


def _visible(files: Iterable[File], *, root: str) -> Iterator[File]:
    """Without hidden files and those that other programs write beside data (`_SUCCESS`, `.crc`)."""
    return (file for file in files if _is_visible(file.uri, root=root))


def _is_visible(uri: str, *, root: str) -> bool:
    below = _below(uri, root=root)
    return below != uri and not _HIDDEN.search(below)


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


def _below(uri: str, *, root: str) -> str:
    """The path relative to the root; the whole location where it lies elsewhere."""
    return uri.removeprefix(f"{root.rstrip('/')}/")


def _named_source(entry: Entry, file: File, *, root: str) -> Source:
    kind = kind_of(file.uri)
    name = entry.image_id or _below(file.uri, root=root)
    return _source(file, name=name, kind=kind if kind in ("tar", "parquet") else "file")
