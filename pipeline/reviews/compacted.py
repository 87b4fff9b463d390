"""Reads joined revisions: larger files with many revisions each, and the pointer to them.

    REVIEWS/_compacted/pointers/<number>.json     the highest number is in force
    REVIEWS/joined/<number>-<id>/NNN.parquet      rows as in the log, by image_id and revision

`maintenance/compact` writes them, `log.py` reads them beside the log. Each pointer holds all
revisions of the pointer before. A reader that lists the log first and reads the pointer afterwards
sees each revision, and counts one that is in both once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.reviews.revision import REVISIONS, Revision, image_key, revision_of
from pipeline.storage import File, Storage, join
from pipeline.table.compacted import pointer_file, pointer_generations

FOLDER = "joined"

_ATTEMPTS = 5
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
class JoinedRevisions:
    """The revisions of one pointer: which file holds which."""

    pointer: ReviewsPointer = field(default_factory=ReviewsPointer)
    numbers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By image key and revision, the index of the file."""

    def file_of(self, key: str, revision: int) -> JoinedFile | None:
        """Returns the file that holds a revision, None where it is in the log only."""
        index = self.numbers.get(key, {}).get(revision)
        return None if index is None else self.pointer.files[index]


def read_reviews_pointer(reviews: str, *, storage: Storage) -> ReviewsPointer:
    """Reads the pointer in force."""
    for _ in range(_ATTEMPTS):
        generations = pointer_generations(reviews, storage=storage)
        if not generations:
            return ReviewsPointer()
        try:
            content = storage.read(pointer_file(reviews, max(generations)))
        except FileNotFoundError:  # a later one was written, and this one removed
            continue
        fields = json.loads(content)
        files = tuple(JoinedFile(**file) for file in fields.pop("files"))
        return ReviewsPointer(files=files, **fields)
    raise FileNotFoundError(f"the pointers of {reviews} vanish while they are read")


def joined_revisions(reviews: str, pointer: ReviewsPointer, *, storage: Storage) -> JoinedRevisions:
    """Reads which revisions the joined files hold."""
    numbers: dict[str, dict[int, int]] = {}
    for index, file in enumerate(pointer.files):
        place = _looked_up(reviews, file, storage=storage)
        with storage.open(place.uri, etag=place.etag, size=place.size) as data:
            rows = read_parquet(data, columns=["image_id", "revision"])
        for image_id, revision in zip(
            rows["image_id"].to_pylist(), rows["revision"].to_pylist(), strict=True
        ):
            numbers.setdefault(image_key(image_id), {})[revision] = index
    return JoinedRevisions(pointer=pointer, numbers=numbers)


def read_joined(
    reviews: str, file: JoinedFile, *, image_id: str, storage: Storage
) -> list[Revision]:
    """Reads the revisions of one image in a joined file."""
    place = _looked_up(reviews, file, storage=storage)
    with storage.open(place.uri, etag=place.etag, size=place.size) as data:
        rows = read_parquet(data, rows=ds.field("image_id") == image_id)
    return [revision_of(row) for row in rows.to_pylist()]


def stream_joined(
    reviews: str, file: JoinedFile, *, storage: Storage, only: Sequence[tuple[str, int]] | None
) -> Iterator[Revision]:
    """Reads the revisions of a joined file one after the other.

    Args:
        only: image_id keys and revisions to read; None for all.
    """
    wanted = None if only is None else set(only)
    place = _looked_up(reviews, file, storage=storage)
    with storage.open(place.uri, etag=place.etag, size=place.size) as data:
        content = pq.ParquetFile(data, pre_buffer=False)
        for batch in content.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            yield from _revisions(batch, wanted)


def _revisions(batch: pa.RecordBatch, wanted: set[tuple[str, int]] | None) -> Iterator[Revision]:
    if wanted is not None:
        ids, numbers = batch["image_id"].to_pylist(), batch["revision"].to_pylist()
        chosen = [
            (image_key(image_id), number) in wanted
            for image_id, number in zip(ids, numbers, strict=True)
        ]
        batch = batch.filter(pa.array(chosen, pa.bool_()))
    yield from map(revision_of, batch.select(REVISIONS.names).to_pylist())


def _looked_up(reviews: str, file: JoinedFile, *, storage: Storage) -> File:
    place = storage.file(join(reviews, file.name))
    if place is None:
        raise FileNotFoundError(f"{join(reviews, file.name)} is gone: it was joined again")
    return place
