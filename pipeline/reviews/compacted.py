"""Reads joined revisions: larger files with many revisions each, and the pointer to them.

    REVIEWS/_compacted/pointers/<number>.json     the highest number is in force
    REVIEWS/_compacted/<number>-<id>/NNN.parquet  rows as in the log, by image key and revision

`maintenance/compact` writes them, `log.py` reads them beside the log. Each pointer holds all
revisions of the pointer before. A reader that lists the log first and reads the pointer afterwards
sees each revision, and counts one that is in both once.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.reviews.revision import Revision, review_key, revision_of
from pipeline.storage import Storage, join
from pipeline.table.compacted import newest_pointer, pointer_file

_BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class JoinedFile:
    """A file with many revisions; its path is relative to the folder of the reviews."""

    name: str
    num_revisions: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class ReviewsPointer:
    """The list of joined files; generation 0 is the empty list of new reviews."""

    generation: int = 0
    files: tuple[JoinedFile, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, kw_only=True)
class JoinedPlace:
    """The place of a revision in a joined file."""

    file: JoinedFile
    row: int


@dataclass(frozen=True, kw_only=True)
class JoinedRevisions:
    """The revisions of one pointer, each with its place."""

    pointer: ReviewsPointer = field(default_factory=ReviewsPointer)
    places: Mapping[str, Mapping[int, JoinedPlace]] = field(default_factory=dict)
    """By image key and revision."""

    def place(self, key: str, revision: int) -> JoinedPlace | None:
        """Returns the place of a revision, None where it is in the log only."""
        return self.places.get(key, {}).get(revision)


def read_reviews_pointer(reviews: str, *, storage: Storage) -> ReviewsPointer:
    """Reads the pointer in force."""
    read = partial(pointer_of_reviews, reviews, storage=storage)
    return newest_pointer(reviews, read, storage=storage) or ReviewsPointer()


def pointer_of_reviews(reviews: str, generation: int, *, storage: Storage) -> ReviewsPointer:
    """Reads the pointer of a generation."""
    fields = json.loads(storage.read(pointer_file(reviews, generation)))
    files = tuple(JoinedFile(**file) for file in fields.pop("files"))
    return ReviewsPointer(files=files, **fields)


def joined_revisions(reviews: str, pointer: ReviewsPointer, *, storage: Storage) -> JoinedRevisions:
    """Reads which revisions the joined files hold."""
    places: dict[str, dict[int, JoinedPlace]] = {}
    for file in pointer.files:
        with open_joined(reviews, file, storage=storage) as data:
            rows = read_parquet(data, columns=["image_id", "revision"])
        found = zip(rows["image_id"].to_pylist(), rows["revision"].to_pylist(), strict=True)
        for row, (image_id, revision) in enumerate(found):
            of_image = places.setdefault(review_key(image_id), {})
            of_image[revision] = JoinedPlace(file=file, row=row)
    return JoinedRevisions(pointer=pointer, places=places)


def read_joined(reviews: str, place: JoinedPlace, *, storage: Storage) -> Revision:
    """Reads one revision of a joined file, and no more of the file than its row group."""
    with open_joined(reviews, place.file, storage=storage) as data:
        content = pq.ParquetFile(data, pre_buffer=False)
        first = 0
        for group in range(content.num_row_groups):
            length = content.metadata.row_group(group).num_rows
            if place.row < first + length:
                rows = content.read_row_group(group, use_threads=False)
                return revision_of(rows.slice(place.row - first, 1).to_pylist()[0])
            first += length
    raise AssertionError(f"{place.file.name} has a row {place.row}, its index was read before")


def stream_joined(
    reviews: str, file: JoinedFile, *, storage: Storage, only: Iterable[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads the revisions of a joined file in batches.

    Args:
        only: the rows to read; None for all.
    """
    wanted = None if only is None else np.sort(np.fromiter(only, np.int64))
    first = 0
    with open_joined(reviews, file, storage=storage) as data:
        content = pq.ParquetFile(data, pre_buffer=False)
        for batch in content.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            if wanted is None:
                yield batch
            else:
                begin, end = np.searchsorted(wanted, [first, first + len(batch)])
                yield batch.take(pa.array(wanted[begin:end] - first))
            first += len(batch)


def open_joined(reviews: str, file: JoinedFile, *, storage: Storage) -> io.BufferedReader:
    """Opens a joined file.

    Raises:
        FileNotFoundError: it was joined again, and removed some time later.
    """
    place = storage.file(join(reviews, file.name))
    if place is None:
        raise FileNotFoundError(f"{join(reviews, file.name)} is gone: it was joined again")
    return storage.open(place.uri, etag=place.etag, size=place.size)
