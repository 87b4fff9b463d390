"""Reads the encoded bytes of a table's photographs, each by itself, with the readers of the job.

Takes a row of `images`; `pictures.py` decodes the bytes. A member of an archive is read by its own
range, a row of a Parquet file by its number. Where they lie is found once and kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.compressed import compression_of
from pipeline.corpora.corpus import kind_of
from pipeline.corpora.encoded import EncodedImage
from pipeline.corpora.parquet_images import row_keys
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.samples import ArchiveSample, sample_offsets
from pipeline.corpora.sources import Source
from pipeline.storage import SourceChanged, Storage, join

_FILES_KEPT = 32


class PhotographError(Exception):
    """A photograph cannot be shown; the message says why, for people."""


class PhotographReader:
    """Finds and reads photographs of a table's rows; may be used by several threads."""

    def __init__(
        self, *, storage: Storage, reading: ReadSettings, image_root: str | None = None
    ) -> None:
        self._storage, self._reading = storage, reading
        self._root = None if image_root is None else storage.absolute(image_root)
        self._archives: OrderedDict[tuple[str, str], _Archive] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str], dict[str, int]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: Mapping[str, Any]) -> EncodedImage:
        """Reads the photograph of a row.

        Raises:
            PhotographError: it is not what was segmented, or there is none any more.
            StorageFault: the storage failed, after retries.
        """
        image_id = row["image_id"]
        source, member = self._source(row)
        try:
            if source.kind == "tar":
                image = self._of_archive(source, image_id=image_id, member=member)
            elif source.kind == "parquet":
                image = self._of_parquet(source, image_id=image_id)
            else:
                image = next(read_source(source, storage=self._storage, settings=self._reading))
        except (SourceChanged, FileNotFoundError) as error:
            raise PhotographError(f"image {image_id}: {error}") from error
        if image.error is not None:
            raise PhotographError(f"image {image_id}: {image.error}")
        return image

    def _source(self, row: Mapping[str, Any]) -> tuple[Source, str | None]:
        """Returns the file with a photograph, as it is today."""
        uri, image_id = row["uri"], row["image_id"]
        kind = kind_of(uri)
        kind = kind if kind in ("tar", "parquet") else "file"
        name = source_name(uri, image_id=image_id, kind=str(kind))
        place = uri if self._root is None else join(self._root, name)
        file = self._storage.file(place)
        if file is None:
            hint = "; if the corpus has moved, name its folder by --image_root"
            raise PhotographError(
                f"image {image_id}: {place} is gone{hint if self._root is None else ''}"
            )
        # A copy has other times than the original, so that its etag tells nothing.
        if self._root is None and file.etag != row["etag"]:
            raise PhotographError(
                f"image {image_id}: {place} has changed since it was segmented; put the file back, "
                "or segment it again"
            )
        source = Source(
            uri=file.uri,
            name=name,
            kind=kind,  # type: ignore[arg-type]
            etag=file.etag,
            size=file.size,
        )
        return source, row["member"]

    def _of_archive(self, source: Source, *, image_id: str, member: str | None) -> EncodedImage:
        archive = self._archive(source)
        sample = archive.find(member, source=source, storage=self._storage, reading=self._reading)
        if sample is None or sample.image is None:
            raise PhotographError(f"image {image_id}: {source.uri} has no member {member}")
        if sample.image.kind == "file" and not archive.is_compressed:
            if sample.image.size > self._reading.max_image_bytes:
                raise PhotographError(
                    f"image {image_id}: it has {sample.image.size} bytes; raise max_image_bytes"
                )
            start = sample.image.data_offset
            data = self._storage.read(
                source.uri, etag=source.etag, start=start, stop=start + sample.image.size
            )
            return EncodedImage(
                image_id=image_id, uri=source.uri, member=member, etag=source.etag, data=data
            )
        return self._in_slice(
            source.sliced(start=sample.offset, stop=archive.end_of(sample)), image_id=image_id
        )

    def _of_parquet(self, source: Source, *, image_id: str) -> EncodedImage:
        row = self._parquet_row(source, image_id)
        return self._in_slice(source.sliced(start=row, stop=row + 1), image_id=image_id)

    def _in_slice(self, source: Source, *, image_id: str) -> EncodedImage:
        for image in read_source(source, storage=self._storage, settings=self._reading):
            if image.image_id == image_id:
                return image
        raise PhotographError(f"image {image_id}: it is no longer in {source.uri}")

    def _archive(self, source: Source) -> "_Archive":
        with self._lock:
            return _kept(self._archives, source, lambda: _Archive())

    def _parquet_row(self, source: Source, image_id: str) -> int:
        if self._reading.key_column is not None:
            with self._lock:
                keys = self._keys.get((source.uri, source.etag))
            if keys is None:
                keys = self._read_keys(source, key_column=self._reading.key_column)
                with self._lock:
                    _kept(self._keys, source, lambda: keys)
            for key in (image_id, image_id.rpartition("/")[0]):  # a list's image has a number more
                if key in keys:
                    return keys[key]
        rest = image_id.removeprefix(f"{source.name}/").split("/")
        if not rest[0].isdecimal():
            raise PhotographError(
                f"image {image_id} is in no row of {source.uri}; name the column of ids by "
                "--key_column"
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


def source_name(uri: str, *, image_id: str, kind: str) -> str:
    """Returns a source's name relative to its corpus, as far as an image_id in it tells.

    An image_id in an archive or a Parquet file begins with its file's name; that of a file is its
    name. Where a manifest or a key column gives ids of its own, it is the last part of the URI.
    """
    ending = uri.rsplit("/", 1)[-1]
    if kind == "file":
        return image_id if uri.endswith(f"/{image_id}") else ending
    end = image_id.find(f"{ending}/") + len(ending)
    return image_id[:end] if end >= len(ending) else ending


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
            if member not in self.samples and not self.is_whole:
                self._walk(member, source=source, storage=storage, reading=reading)
            return self.samples.get(str(member))

    def end_of(self, sample: ArchiveSample) -> int | None:
        """Returns the start of the next sample; None behind the last one."""
        later = [offset for offset in self.offsets if offset > sample.offset]
        return min(later, default=None)

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
                    # The sample behind it says where its slice ends.
                    if member in self.samples and sample is not self.samples[str(member)]:
                        return
            except ArchiveDamage:
                pass  # what lies before the damage was segmented, and is shown
        self.is_whole = True


def _kept(kept: "OrderedDict[tuple[str, str], Any]", source: Source, make: Any) -> Any:
    """Returns what is kept of a file, made if there is nothing; forgets the longest unused."""
    key = source.uri, source.etag
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > _FILES_KEPT:
        kept.popitem(last=False)
    return kept[key]
