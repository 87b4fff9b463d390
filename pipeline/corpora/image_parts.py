"""Finds the part of a source that holds one image of a table: a file, a slice of a tar, a row.

Takes rows of `images`. The review page and the pictures of a comparison read these parts, and a
queue names them, so that a run on it reads nothing else. Where images lie in a file is found once
and kept.
"""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.compressed import compression_of
from pipeline.corpora.corpus import kind_of
from pipeline.corpora.parquet_images import row_keys
from pipeline.corpora.samples import ArchiveSample, sample_offsets
from pipeline.corpora.settings import ReadSettings
from pipeline.corpora.sources import Kind, Source
from pipeline.storage import File, Storage, join
from pipeline.storage.uris import HTTP, protocol

_FILES_KEPT = 32


class MissingImage(Exception):
    """An error: no part of a source holds the image. The message says why, for people."""


class MissingSource(MissingImage):
    """The whole object is gone."""


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """The part of a source that holds one image."""

    source: Source
    has_changed: bool
    """True if the object is another version than the one that was labelled."""
    data_start: int | None = None
    data_stop: int | None = None
    """Range of the encoded image in the object, where it lies there as it is."""


class ImageParts:
    """Finds the parts of a table's images; may be used by several threads."""

    def __init__(
        self, *, storage: Storage, reading: ReadSettings, image_root: str | None = None
    ) -> None:
        """Takes the folder where the corpus is now, if it is not where the table says."""
        self._storage, self._reading = storage, reading
        self._root = None if image_root is None else storage.absolute(image_root)
        self._archives: OrderedDict[tuple[str, str], _Archive] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str], dict[str, int]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, row: Mapping[str, Any]) -> ImagePart:
        """Returns the part of a row of `images`; reads headers of its archive as far as needed.

        Raises:
            MissingImage: its object is gone or may not be read, or no longer holds the image.
            StorageFault: the storage failed, after retries.
        """
        place = self._place(row)
        return self._in_object(row, place=place, file=self._storage.file(place))

    def find_all(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[str, ImagePart | MissingImage]]:
        """Yields the image_id of each row and its part, object by object."""
        of_object: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            of_object[self._place(row)].append(row)
        for place, own in of_object.items():
            file = self._storage.file(place)
            for row in own:
                try:
                    yield row["image_id"], self._in_object(row, place=place, file=file)
                except MissingImage as missing:
                    yield row["image_id"], missing

    def _place(self, row: Mapping[str, Any]) -> str:
        """Returns where the object of an image is now."""
        uri = row["uri"]
        if self._root is None:
            return uri
        return place_below(self._root, source_name(uri, image_id=row["image_id"]))

    def _in_object(self, row: Mapping[str, Any], *, place: str, file: File | None) -> ImagePart:
        if file is None:
            raise MissingSource(f"{place} is gone since it was labelled")
        if not file.may_be_read:
            raise MissingImage(f"this user may not read {place}")
        image_id, kind = row["image_id"], source_kind(row["uri"])
        source = Source(
            uri=file.uri,
            # The image_id of a file is its source's name, whatever a manifest calls it.
            name=image_id if kind == "file" else source_name(row["uri"], image_id=image_id),
            kind=kind,
            etag=file.etag,
            size=file.size,
        )
        # A copy has other times than the original, so that its etag tells nothing.
        has_changed = self._root is None and file.etag != row["etag"]
        if kind == "tar":
            return self._in_tar(source, row, has_changed=has_changed)
        start = self._parquet_row(source, image_id) if kind == "parquet" else 0
        return ImagePart(
            source=source.sliced(start=start, stop=start + 1, num_images=1),
            has_changed=has_changed,
        )

    def _in_tar(self, source: Source, row: Mapping[str, Any], *, has_changed: bool) -> ImagePart:
        with self._lock:
            archive = _kept(self._archives, source, _Archive())
        sample = archive.find(
            row["member"], source=source, storage=self._storage, reading=self._reading
        )
        if sample is None or sample.image is None:
            raise MissingImage(f"{source.uri} has no member {row['member']}")
        own = source.sliced(start=sample.offset, stop=archive.end_of(sample), num_images=1)
        if sample.image.kind != "file" or archive.is_compressed:
            return ImagePart(source=own, has_changed=has_changed)
        start = sample.image.data_offset
        return ImagePart(
            source=own, has_changed=has_changed, data_start=start,
            data_stop=start + sample.image.size,
        )  # fmt: skip

    def _parquet_row(self, source: Source, image_id: str) -> int:
        """Returns the row of an image, which its id names, or its key."""
        if self._reading.key_column is not None:
            with self._lock:
                keys = self._keys.get((source.uri, source.etag))
            if keys is None:
                keys = self._read_keys(source, key_column=self._reading.key_column)
                with self._lock:
                    _kept(self._keys, source, keys)
            for key in (image_id, image_id.rpartition("/")[0]):  # a list's image has a number more
                if key in keys:
                    return keys[key]
        rest = image_id.removeprefix(f"{source.name}/").split("/")
        if not rest[0].isdecimal():
            raise MissingImage(
                f"it is in no row of {source.uri}; name the column of ids by --key_column"
            )
        return int(rest[0])

    def _read_keys(self, source: Source, *, key_column: str) -> dict[str, int]:
        found: dict[str, int] = {}
        row = 0
        with self._storage.open(source.uri, etag=source.etag, size=source.size) as file:
            for keys in row_keys(file, source, key_column=key_column):
                for key in keys:
                    if key is not None:
                        found.setdefault(key, row)
                    row += 1
        return found


def source_name(uri: str, *, image_id: str) -> str:
    """Returns a source's name relative to its corpus, as far as an image_id in it tells.

    An image_id in an archive or a Parquet file begins with its file's name; that of a file is its
    name. Where a manifest or a key column gives ids of its own, it is the last part of the URI.
    """
    ending = uri.rsplit("/", 1)[-1]
    if source_kind(uri) == "file":
        return image_id if uri.endswith(f"/{image_id}") else ending
    before, found, _ = image_id.partition(f"{ending}/")
    return before + ending if found and (not before or before.endswith("/")) else ending


def source_kind(uri: str) -> Kind:
    """Returns what a table's object is: an archive, a Parquet file, or an image by itself."""
    kind = kind_of(uri)
    return kind if kind in ("tar", "parquet") else "file"  # type: ignore[return-value]


def place_below(root: str, name: str) -> str:
    """Returns where a source of that name lies below a root, with the escapes of web addresses."""
    parts = name.split("/")
    return join(root, *(map(quote, parts) if protocol(root) in HTTP else parts))


@dataclass
class _Archive:
    """The samples of an archive that were found so far, by the names of their images."""

    samples: dict[str, ArchiveSample] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    is_compressed: bool = False
    is_whole: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(
        self, member: str | None, *, source: Source, storage: Storage, reading: ReadSettings
    ) -> ArchiveSample | None:
        """Returns the sample whose image has that name; reads headers only as far as needed."""
        with self.lock:
            if not self.is_whole and not self._has_end(member):
                self._walk(member, source=source, storage=storage, reading=reading)
            return self.samples.get(str(member))

    def end_of(self, sample: ArchiveSample) -> int | None:
        """Returns the start of the next sample; None behind the last one."""
        later = [offset for offset in self.offsets if offset > sample.offset]
        return min(later, default=None)

    def _has_end(self, member: str | None) -> bool:
        """Returns whether a sample was found, and the one behind it, where its slice ends."""
        sample = self.samples.get(str(member))
        return sample is not None and self.end_of(sample) is not None

    def _walk(
        self, member: str | None, *, source: Source, storage: Storage, reading: ReadSettings
    ) -> None:
        with storage.open(source.uri, etag=source.etag, size=source.size) as file:
            self.is_compressed = compression_of(file.read(8)) is not None
            start = self.offsets[-1] if self.offsets else 0
            try:
                for sample in sample_offsets(
                    file, image_members=reading.image_members, start=start
                ):
                    is_new = not self.offsets or sample.offset > self.offsets[-1]
                    if is_new:
                        self.offsets.append(sample.offset)
                    if sample.image is not None and not sample.is_repeated:
                        self.samples.setdefault(sample.image.name, sample)
                    if self._has_end(member):
                        return
            except ArchiveDamage:
                pass  # what lies before the damage was segmented, and is shown
        self.is_whole = True


def _kept(kept: "OrderedDict[tuple[str, str], Any]", source: Source, new: Any) -> Any:
    """Returns what is kept of a file, `new` if there is nothing; forgets the longest unused."""
    found = kept.setdefault((source.uri, source.etag), new)
    kept.move_to_end((source.uri, source.etag))
    while len(kept) > _FILES_KEPT:
        kept.popitem(last=False)
    return found
