"""Lists the sources of a corpus.

Takes a location that the user names (a prefix, an archive, a Parquet file, a manifest), yields
whole `Source`s in a fixed order; `planning/planner.py` cuts and groups them. A listing is streamed:
millions of files of a prefix take no memory, and of a manifest's entries only digests are kept.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.corpora.columns import UnsureColumns
from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.corpora.lookups import refusal
from pipeline.corpora.manifests import look_up_files, read_manifest
from pipeline.corpora.parquet_images import holds_images
from pipeline.corpora.patterns import Pattern, pattern_of
from pipeline.corpora.settings import ReadSettings
from pipeline.corpora.sources import Kind, Source
from pipeline.corpora.visible import VisibleFiles
from pipeline.runtime.skips import (
    CHANGED_SINCE_NAMED,
    OF_NO_KNOWN_KIND,
    WITHOUT_LOCATIONS,
    SkipCounts,
)
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
    """The content of a corpus; all but `root` grows while `sources` is read."""

    root: str
    sources: Iterator[Source]
    skipped: SkipCounts = field(default_factory=SkipCounts)
    """Counts of files that are no sources, by reason."""
    doubled: list[str] = field(default_factory=list)
    """The first thousand locations that a manifest repeats, or that the prefix has too."""
    more_doubled: int = 0
    """Number of further ones."""
    waiting: int = 0
    """Number of files that `waits` leaves for a later run."""
    waiting_absent: int = 0
    """Number of those that do not exist."""
    out_of_reach: int = 0
    """Number of files that the storage could not be asked about."""
    faults: list[str] = field(default_factory=list)
    """The faults of the first of them."""
    notices: list[str] = field(default_factory=list)
    """Remarks for people on how manifests are read."""

    def count_fault(self, fault: StorageFault) -> None:
        self.out_of_reach += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(str(fault))

    def count_skipped(self, uri: str, *, reason: str) -> None:
        """Counts a file that could hold images and is no source; `reason` is as "hidden"."""
        self.skipped.add(uri, reason=reason)

    def count_doubled(self, uri: str) -> None:
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
    """Lists the sources of a corpus, each once, in the order of the listing.

    One prefix may mix kinds. A Parquet file with a column of bytes holds images; one with a column
    `uri`, like such a csv or jsonl file, is a manifest, whose entries are sources. The location may
    be a pattern, as in shells.

    Args:
        is_planned: true for a Parquet file of an earlier plan, which then need not be opened.
        waits: true if a file is left for a later run.

    Raises:
        ValueError: the location is malformed, or a manifest cannot be read for certain.
    """
    check_location(uri, setting="the corpus")
    location = storage.absolute(uri)
    single = storage.file(location)
    pattern = None if single else pattern_of(location, storage=storage)
    root = pattern.root if pattern else location.rsplit("/", 1)[0] if single else location
    listing = Listing(root=root, sources=iter(()))
    visible = None
    if single is not None:
        files = iter([single])
    else:
        listed = storage.files(root)
        if pattern is not None:
            listed = (file for file in listed if pattern.matches(file.uri))
        visible = VisibleFiles(root=root, storage=storage, kind_of=kind_of)
        files = visible.among(listed, count_skipped=listing.count_skipped)
    lister = _Lister(
        listing,
        storage=storage,
        settings=settings,
        is_planned=is_planned,
        waits=waits,
        visible=visible,
        pattern=pattern,
    )
    listing.sources = lister.sources(files)
    return listing


@dataclass(kw_only=True)
class _Lister:
    """Turns the files of a corpus into sources, each once; counts the others in the listing."""

    listing: Listing = field(kw_only=False)
    storage: Storage
    settings: ReadSettings
    is_planned: Callable[[File], bool]
    waits: Callable[[File], bool]
    visible: VisibleFiles | None
    """None where the user named a single file."""
    pattern: Pattern | None
    named: set[bytes] = field(default_factory=set)
    """Digests of the sources that manifests named so far."""
    parquet_files: set[str] = field(default_factory=set)
    """Parquet files of the prefix so far; whether one holds images shows only when it is opened."""

    def sources(self, files: Iterable[File]) -> Iterator[Source]:
        for file in files:
            kind = kind_of(file.uri)
            if self.waits(file):
                self.listing.waiting += 1
            elif not file.may_be_read and kind is not None:
                self.listing.count_fault(refusal(file))
            elif kind in ("file", "tar"):  # a prefix has each of these once
                yield self._source(file, kind=str(kind))
            elif kind == "parquet" and self._holds_images(file):
                self.parquet_files.add(file.uri)
                source = self._source(file, kind="parquet")
                yield from self._once(source, is_doubled=_digest(source) in self.named)
            elif kind is None or not file.etag:  # without an etag: a broken link
                self.listing.count_skipped(file.uri, reason=OF_NO_KNOWN_KIND)
            else:
                yield from self._named_sources(file, kind=kind)

    def _holds_images(self, file: File) -> bool:
        if not file.etag or self.is_planned(file):
            return True
        with self.storage.open(file.uri, etag=file.etag, size=file.size) as data:
            return holds_images(data, settings=self.settings)

    def _named_sources(self, file: File, *, kind: str) -> Iterator[Source]:
        """Yields the sources that a manifest names; other files without locations are counted."""
        is_asked_for = self.visible is None
        try:
            manifest = read_manifest(file, storage=self.storage, is_asked_for=is_asked_for)
        except UnsureColumns as error:
            if is_asked_for:
                no_images = "no column of images (--image_column names one), and "
                reason = f"{no_images if kind == 'parquet' else ''}{error}"
                raise ValueError(f"{file.uri}: {reason}") from error
            self.listing.count_skipped(file.uri, reason=WITHOUT_LOCATIONS)
            return
        self.listing.notices += [manifest.notice] if manifest.notice else []
        for entry, found in look_up_files(manifest.entries, file, storage=self.storage):
            if isinstance(found, StorageFault):
                self.listing.count_fault(found)
            elif self.waits(found):
                self.listing.waiting += 1
                self.listing.waiting_absent += not found.etag
            else:
                kind_named = kind_of(found.uri)
                kind_named = kind_named if kind_named in ("tar", "parquet") else "file"
                source = self._source(found, kind=str(kind_named), name=entry.image_id)
                if entry.part is not None and kind_named != "file":
                    if found.etag != entry.part.etag:
                        self.listing.count_skipped(found.uri, reason=CHANGED_SINCE_NAMED)
                        continue
                    source = dataclasses.replace(
                        source,
                        name=entry.part.name,
                        start=entry.part.start,
                        stop=entry.part.stop,
                        num_images=1,
                    )
                digest = _digest(source)
                is_doubled = digest in self.named or self._is_listed(source)
                self.named.add(digest)
                yield from self._once(source, is_doubled=is_doubled)

    def _once(self, source: Source, *, is_doubled: bool) -> Iterator[Source]:
        if is_doubled:
            self.listing.count_doubled(source.uri)
        else:
            yield source

    def _is_listed(self, source: Source) -> bool:
        """True if the prefix itself has the source, and so yields it under its path."""
        if source.uri in self.parquet_files:
            return True
        is_known = kind_of(source.uri) in ("file", "tar") and source.etag != ""
        is_below = self.visible is not None and source.uri in self.visible
        return is_known and is_below and (self.pattern is None or self.pattern.matches(source.uri))

    def _source(self, file: File, *, kind: str, name: str | None = None) -> Source:
        return Source(
            uri=file.uri,
            name=name or below(file.uri, root=self.listing.root),
            kind=kind,  # type: ignore[arg-type]
            etag=file.etag,
            size=file.size,
            num_images=1 if kind == "file" else None,
        )


def kind_of(uri: str) -> Kind | str | None:
    """Returns the kind of file by its ending: a source's, `manifest`, or None."""
    name = uri.rsplit("/", 1)[-1].lower()
    for kind, endings in _KINDS:
        if name.endswith(endings):
            return kind
    return None


def _digest(source: Source) -> bytes:
    part = f"\0{source.start}" if source.start or source.stop not in (None, 1) else ""
    return hashlib.blake2b(f"{source.uri}{part}".encode(), digest_size=16).digest()
