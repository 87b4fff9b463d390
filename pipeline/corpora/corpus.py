"""The corpus: which sources lie behind a location.

A listing is read as it comes: millions of files of a prefix take no memory, and of a manifest's
entries only a digest is kept.

Takes what the user names (a prefix, an archive, a Parquet file, a manifest), gives whole `Source`s
in a fixed order; `planning/planner.py` cuts and groups them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.corpora.columns import UnsureColumns
from pipeline.corpora.encoded import ReadSettings
from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.corpora.lookups import refusal
from pipeline.corpora.manifests import Entry, looked_at, read_manifest
from pipeline.corpora.parquet_images import holds_images
from pipeline.corpora.patterns import Pattern, pattern_of
from pipeline.corpora.sources import Kind, Source
from pipeline.corpora.visible import VisibleFiles
from pipeline.runtime.skips import OF_NO_KNOWN_KIND, WITHOUT_LOCATIONS, SkipCounts
from pipeline.storage import File, Storage, StorageFault, below
from pipeline.storage.locations import check_location

ARCHIVE_ENDINGS = (
    "tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tbz", "tb2", "tar.xz", "txz", "tar.zst", "tzst",
)  # fmt: skip
MANIFEST_ENDINGS = ("csv", "tsv", "jsonl", "ndjson")

_KINDS: list[tuple[Kind | str, tuple[str, ...]]] = [
    ("file", tuple(f".{ending}" for ending in IMAGE_ENDINGS)),
    ("tar", tuple(f".{ending}" for ending in ARCHIVE_ENDINGS)),
    ("parquet", (".parquet",)),
    ("manifest", tuple(f".{ending}" for ending in MANIFEST_ENDINGS)),
]
_MOST_NAMED = 1000
_MOST_FAULTS = 5


@dataclass
class Listing:
    """What a corpus holds, as far as a listing tells; all but `root` grows while it is read."""

    root: str
    sources: Iterator[Source]
    skipped: SkipCounts = field(default_factory=SkipCounts)
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
    notices: list[str] = field(default_factory=list)
    """Sentences on how manifests are read, for people."""

    def leave(self, fault: StorageFault) -> None:
        self.out_of_reach += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(str(fault))

    def count_skipped(self, uri: str, *, reason: str) -> None:
        """Counts a file that could hold images and is no source; the reason is a few plain words,
        as "hidden"."""
        self.skipped.add(uri, reason=reason)

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
    column `uri`, like a csv or jsonl file with one, is a manifest, and its entries are sources. The
    location may be a pattern, as shells have them.

    Args:
        is_planned: whether an earlier plan holds a Parquet file, so that none has to look inside.
        waits: whether a file is to be left for another time.

    Raises:
        ValueError: a manifest cannot be read for certain, or the location is none.
    """
    check_location(uri, setting="the corpus")
    place = storage.absolute(uri)
    single = storage.file(place)
    pattern = None if single else pattern_of(place, storage=storage)
    root = pattern.root if pattern else place.rsplit("/", 1)[0] if single else place
    listing = Listing(root=root, sources=iter(()))
    visible = None
    if single is not None:
        files = iter([single])
    else:
        listed = storage.files(root)
        if pattern is not None:
            listed = (file for file in listed if pattern.matches(file.uri))
        visible = VisibleFiles(root=root, storage=storage, of_a_kind=kind_of)
        files = visible.among(listed, count_skipped=listing.count_skipped)
    found = _found(
        _settled(files, listing, waits=waits),
        listing,
        storage=storage,
        settings=settings,
        is_planned=is_planned,
        waits=waits,
        is_asked_for=single is not None,
    )
    listing.sources = _once(found, listing, visible=visible, pattern=pattern)
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
    is_asked_for: bool,
) -> Iterator[_Found]:
    for file in files:
        kind = kind_of(file.uri)
        name = below(file.uri, root=listing.root)
        is_left = kind == "parquet" and (not file.etag or is_planned(file))
        if kind in ("file", "tar") or is_left:
            yield _Found(_source(file, name=name, kind=str(kind)))
            continue
        if kind is None or not file.etag:  # without an etag: nothing lies where its link leads
            listing.count_skipped(file.uri, reason=OF_NO_KNOWN_KIND)
            continue
        if kind == "parquet":
            with storage.open(file.uri, etag=file.etag, size=file.size) as data:
                is_source = holds_images(data, settings=settings)
            if is_source:
                yield _Found(_source(file, name=name, kind="parquet"))
                continue
        try:
            manifest = read_manifest(file, storage=storage, is_asked_for=is_asked_for)
        except UnsureColumns as error:
            if is_asked_for:
                what = "no column of images (--image_column names one), and " * (kind == "parquet")
                raise ValueError(f"{file.uri}: {what}{error}") from error
            listing.count_skipped(file.uri, reason=WITHOUT_LOCATIONS)
            continue
        listing.notices += [manifest.notice] if manifest.notice else []
        for entry, there in looked_at(manifest.entries, file, storage=storage):
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
    found: Iterable[_Found],
    listing: Listing,
    *,
    visible: VisibleFiles | None,
    pattern: Pattern | None,
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
        is_below = visible is not None and source.uri in visible
        return is_known and is_below and (pattern is None or pattern.matches(source.uri))

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


def _named_source(entry: Entry, file: File, *, root: str) -> Source:
    kind = kind_of(file.uri)
    name = entry.image_id or below(file.uri, root=root)
    return _source(file, name=name, kind=kind if kind in ("tar", "parquet") else "file")
