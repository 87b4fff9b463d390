"""Finds the part of a source that holds one image of a table: a file, a slice of a tar, a row.

The pictures of a comparison are read from these parts, and a queue names them, so that a run on it
reads nothing else.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.corpus import kind_of
from pipeline.corpora.parquet_images import row_keys
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.samples import sample_offsets
from pipeline.corpora.sources import Source
from pipeline.storage import File, Storage

_GONE = "gone since it was labelled"


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The part of a source that holds one image, or the reason why there is none."""

    image_id: str
    source: Source | None = None
    missing: str = ""
    has_changed: bool = False
    """True if the object is another version than the one that was labelled."""


def image_sources(
    rows: Sequence[Mapping[str, Any]], *, storage: Storage, reading: ReadSettings
) -> Iterator[ImageSource]:
    """Yields the parts of rows of `images`, object by object.

    Reads the headers of archives up to the last image that is asked for, and nothing of files.
    """
    of_object: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        of_object[row["uri"]].append(row)
    for uri, own in of_object.items():
        file = storage.file(uri)
        if file is None or not file.may_be_read:
            reason = _GONE if file is None else "this user may not read it"
            yield from (ImageSource(image_id=row["image_id"], missing=reason) for row in own)
            continue
        kind, etags = kind_of(uri), {row["image_id"]: row["etag"] for row in own}
        if kind == "tar":
            found = _in_tar(file, list(etags), storage=storage, reading=reading)
        elif kind == "parquet":
            found = _in_parquet(file, list(etags), storage=storage, reading=reading)
        else:
            found = {
                image_id: _part(file, kind="file", name=image_id, start=0, stop=1)
                for image_id in etags
            }
        for image_id, etag in etags.items():
            source = found.get(image_id)
            yield ImageSource(
                image_id=image_id,
                source=source,
                missing="" if source else _GONE,
                has_changed=file.etag != etag,
            )


def _part(file: File, *, kind: str, name: str, start: int, stop: int | None) -> Source:
    return Source(
        uri=file.uri,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        etag=file.etag,
        size=file.size,
        start=start,
        stop=stop,
        num_images=1,
    )


def _in_tar(
    file: File, image_ids: Sequence[str], *, storage: Storage, reading: ReadSettings
) -> dict[str, Source]:
    """Returns the slices of a tar by image_id, which ends with the sample's name."""
    prefix = _prefix(file.uri, image_ids)
    wanted = {image_id.removeprefix(f"{prefix}/"): image_id for image_id in image_ids}
    starts: dict[str, int] = {}
    stops: dict[str, int] = {}
    before: str | None = None
    # The samples before damage are whole.
    with (
        contextlib.suppress(ArchiveDamage),
        storage.open(file.uri, etag=file.etag, size=file.size) as data,
    ):
        for sample in sample_offsets(data, image_members=reading.image_members):
            if before is not None:
                stops[before] = sample.offset
                before = None
                if len(stops) == len(wanted):
                    break
            is_first = sample.key in wanted and sample.key not in starts
            if is_first and sample.image is not None:
                starts[sample.key] = sample.offset
                before = sample.key
    return {
        wanted[key]: _part(file, kind="tar", name=prefix, start=start, stop=stops.get(key))
        for key, start in starts.items()
    }


def _in_parquet(
    file: File, image_ids: Sequence[str], *, storage: Storage, reading: ReadSettings
) -> dict[str, Source]:
    """Returns the rows of a Parquet file by image_id: a key, or the file's name and the row."""
    prefix = _prefix(file.uri, image_ids)
    whole = _part(file, kind="parquet", name=prefix, start=0, stop=None)
    rows: dict[str, int] = {}
    if reading.key_column is not None:
        wanted, row = set(image_ids), 0
        with storage.open(file.uri, etag=file.etag, size=file.size) as data:
            for keys in row_keys(data, whole, key_column=reading.key_column):
                for key in keys:
                    if key in wanted:
                        rows.setdefault(key, row)
                    row += 1
    for image_id in image_ids:
        # After the row comes the place in a list of images, if the row has one.
        number = image_id.removeprefix(f"{prefix}/").split("/")[0]
        if image_id not in rows and prefix and number.isdecimal():
            rows[image_id] = int(number)
    return {
        image_id: whole.sliced(start=row, stop=row + 1, num_images=1)
        for image_id, row in rows.items()
    }


def _prefix(uri: str, image_ids: Sequence[str]) -> str:
    """Returns the source's name, with which the ids of its images begin: it ends like its location.

    Empty where no id has it, as where ids are keys.
    """
    name = uri.rsplit("/", 1)[-1]
    for image_id in image_ids:
        before, found, _ = image_id.partition(f"{name}/")
        if found and (not before or before.endswith("/")):
            return before + name
    return ""
