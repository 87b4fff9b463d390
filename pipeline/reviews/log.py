"""Stores revisions: one Parquet file each, under a number that storage gives once.

    REVIEWS/log/<first 24 digits of the SHA-256 of the image_id>/<00000003>.parquet
    REVIEWS/branches/<the same>/<digest>.parquet    saves that conflicted with another's

REVIEWS is `TABLE/_reviews` unless the table is read-only. Nothing is ever written over. A number is
given only after the one before it, so that numbers have no gap. `compacted.py` says where
`maskformer compact` puts the rows of many revisions.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.parquet_images import PARQUET_ERRORS
from pipeline.reviews.compacted import (
    JoinedFile,
    JoinedRevisions,
    joined_revisions,
    read_joined,
    read_reviews_pointer,
    stream_joined,
)
from pipeline.reviews.revision import REVISIONS, Revision, review_key, revision_of, table_of
from pipeline.runtime.threads import map_ahead
from pipeline.storage import File, Storage, join
from pipeline.storage.locations import check_folder_location

LOG, BRANCHES = "log", "branches"
_READS_AT_ONCE = 16
_ATTEMPTS = 5
_NUMBERED = re.compile(r"\d{8}\.parquet")


class RevisionTaken(Exception):
    """The number of a revision belongs to another one, which came first."""


class DamagedRevision(ValueError):
    """A file of the log is no revision."""

    def __init__(self, uri: str, reason: object) -> None:
        super().__init__(f"{uri} is no revision: {' '.join(str(reason).split())[:300]}")
        self.uri = uri


@dataclass(frozen=True, kw_only=True)
class LogListing:
    """The revisions of all images at one moment."""

    own: Mapping[str, Mapping[int, File]]
    """Revisions with a file of their own, by image key and number."""
    joined: JoinedRevisions

    def numbers(self) -> dict[str, set[int]]:
        """Returns the numbers of each image's revisions, by image key."""
        found = {key: {*files} for key, files in self.own.items()}
        for key, places in self.joined.places.items():
            found.setdefault(key, set()).update(places)
        return found

    def newest(self) -> list[tuple[str, int]]:
        """Returns the key of each image with its greatest number."""
        return [(key, max(numbers)) for key, numbers in self.numbers().items()]


def reviews_location(table: str, reviews: str | None) -> str:
    """Returns the folder of a table's reviews: the given one, or that inside the table."""
    return reviews if reviews is not None else join(table, "_reviews")


class ReviewLog:
    """The revisions of a table's images."""

    def __init__(self, uri: str, storage: Storage, *, table: str | None = None) -> None:
        """Opens the reviews in a folder, which may be absent.

        Args:
            table: the reviewed table, for the model's rows; by default the folder above `_reviews`.
        """
        check_folder_location(uri, setting="reviews")
        self.uri = storage.absolute(uri)
        self.storage = storage
        above, _, name = self.uri.rpartition("/")
        self.table = table if table is not None else above if name == "_reviews" else None
        self._joined = JoinedRevisions()

    @classmethod
    def of_table(cls, table: str, *, reviews: str | None, storage: Storage) -> "ReviewLog":
        """Opens the reviews of a table, inside it or where `reviews` says."""
        return cls(reviews_location(table, reviews), storage, table=storage.absolute(table))

    def file(self, image_id: str, revision: int) -> str:
        """Returns the location of a revision in the log."""
        return self.own_file(review_key(image_id), revision)

    def own_file(self, key: str, revision: int) -> str:
        """Returns the location of a revision in the log, by the key of its image."""
        return join(self.uri, LOG, key, f"{revision:08}.parquet")

    def numbers(self, image_id: str) -> list[int]:
        """Returns the numbers of an image's revisions, ascending."""
        key = review_key(image_id)
        files = self.storage.files(join(self.uri, LOG, key))
        own = {_place(file.uri)[1] for file in files if is_revision_file(file.uri)}
        return sorted(own | {*self.joined().places.get(key, {})})

    def latest(self, image_id: str) -> Revision | None:
        """Returns the newest revision of an image, None where there is none."""
        numbers = self.numbers(image_id)
        return self.read(image_id, numbers[-1]) if numbers else None

    def history(self, image_id: str) -> list[Revision]:
        """Returns all revisions of an image, the oldest first."""
        return [self.read(image_id, number) for number in self.numbers(image_id)]

    def read(self, image_id: str, revision: int) -> Revision:
        """Reads one revision.

        Raises:
            FileNotFoundError: there is no such revision.
            DamagedRevision: its file cannot be read.
        """
        # A joined file comes first: only it is sure to hold the revision that came first.
        place = self.joined().place(review_key(image_id), revision)
        if place is None:
            return self._read_moved(self.file(image_id, revision))
        return read_joined(self.uri, place, storage=self.storage)

    def append(self, revision: Revision) -> None:
        """Adds a revision under its number.

        Raises:
            RevisionTaken: another revision has the number.
            ValueError: the number before it was not given yet.
        """
        numbers = self.numbers(revision.image_id)
        newest = numbers[-1] if numbers else 0
        if revision.revision > newest + 1 or revision.revision < 1:
            raise ValueError(
                f"revision {revision.revision} of {revision.image_id} must follow the newest one, "
                f"which is {newest}"
            )
        place = self.file(revision.image_id, revision.revision)
        is_written = revision.revision > newest and self.storage.write_new(
            place, to_parquet(revision)
        )
        # Between the listing and the write, `compact` may have joined and removed that number.
        is_joined = self.joined().place(review_key(revision.image_id), revision.revision)
        if (is_joined or not is_written) and self.read(
            revision.image_id, revision.revision
        ) != revision:
            if is_written:
                self.storage.delete([place])
            raise RevisionTaken(f"revision {revision.revision} of {revision.image_id} is there")

    def keep_branch(self, revision: Revision) -> str:
        """Stores a save that conflicts with another's, so that it is not lost; returns its place.

        The same save twice is stored once.
        """
        folder = join(self.uri, BRANCHES, review_key(revision.image_id))
        place = join(folder, f"{revision.submission[:24]}.parquet")
        self.storage.write_new(place, to_parquet(revision))
        return place

    def branches(self, image_id: str) -> list[Revision]:
        """Returns the saves of an image that conflicted with another's, the oldest first."""
        folder = join(self.uri, BRANCHES, review_key(image_id))
        names = (file.uri for file in self.storage.files(folder))
        files = [name for name in names if name.endswith(".parquet") and "/." not in name]
        return sorted(map(self.read_own, files), key=lambda branch: branch.created_at)

    def listing(self) -> LogListing:
        """Lists all revisions; reads none of them."""
        own: dict[str, dict[int, File]] = {}
        for file in self.storage.files(join(self.uri, LOG)):
            if is_revision_file(file.uri):
                key, number = _place(file.uri)
                own.setdefault(key, {})[number] = file
        # After the listing, so that a revision whose own file was removed is in this pointer.
        return LogListing(own=own, joined=self.joined())

    def latest_revisions(self) -> Iterator[Revision]:
        """Reads the newest revision of each image, in no particular order."""
        listing = self.listing()
        yield from self.revisions(listing.newest(), listing=listing)

    def revisions(
        self, wanted: Iterable[tuple[str, int]], *, listing: LogListing
    ) -> Iterator[Revision]:
        """Reads some of the listed revisions, by image key and number."""
        rows_of: dict[JoinedFile, list[int]] = {}
        own: list[str] = []
        for key, number in wanted:
            place = listing.joined.place(key, number)
            if place is not None:
                rows_of.setdefault(place.file, []).append(place.row)
            else:
                own.append(self.own_file(key, number))
        for file, rows in rows_of.items():
            for batch in stream_joined(self.uri, file, storage=self.storage, only=rows):
                yield from map(revision_of, batch.to_pylist())
        yield from map_ahead(self._read_moved, own, num_threads=_READS_AT_ONCE)

    def joined(self) -> JoinedRevisions:
        """Returns the joined revisions of the pointer in force; keeps them until it changes."""
        for _ in range(_ATTEMPTS):
            pointer = read_reviews_pointer(self.uri, storage=self.storage)
            if pointer == self._joined.pointer:
                return self._joined
            try:
                self._joined = joined_revisions(self.uri, pointer, storage=self.storage)
            except FileNotFoundError:  # joined again, and removed meanwhile
                continue
            return self._joined
        raise FileNotFoundError(f"the joined files of {self.uri} vanish while they are read")

    def _read_moved(self, uri: str) -> Revision:
        """Reads a revision's own file, or the joined file that it was put into meanwhile."""
        try:
            return self.read_own(uri)
        except FileNotFoundError:
            place = self.joined().place(*_place(uri))
            if place is None:
                raise
            return read_joined(self.uri, place, storage=self.storage)

    def read_own(self, uri: str) -> Revision:
        """Reads the file of one revision.

        Raises:
            FileNotFoundError: there is no such file, maybe since `compact` removed it.
            DamagedRevision: it is no revision.
        """
        content = self.storage.read(uri)
        try:
            rows = read_parquet(content)
            if rows.schema.names != REVISIONS.names:
                raise DamagedRevision(uri, f"its columns are {rows.schema.names}")
            (row,) = rows.to_pylist()
            return revision_of(row)
        except (*PARQUET_ERRORS, ValueError, TypeError) as error:
            if isinstance(error, DamagedRevision):
                raise
            raise DamagedRevision(uri, error) from error


def to_parquet(revision: Revision) -> bytes:
    """Returns a Parquet file with one row."""
    buffer = io.BytesIO()
    pq.write_table(table_of([revision]), buffer, **REVISION_FILES)
    return buffer.getvalue()


REVISION_FILES: Mapping[str, Any] = {
    "compression": "zstd",
    "row_group_size": 64,
    "write_statistics": ["image_id", "revision", "status", "reviewer", "created_at"],
    "use_dictionary": ["status", "reviewer", "tool", "table_fingerprint", "model_fingerprint"],
}
"""Options for writing revisions, joined or not."""


def is_revision_file(uri: str) -> bool:
    """Returns True for the name of a revision; folders may also hold drafts of writers."""
    return _NUMBERED.fullmatch(uri.rpartition("/")[2]) is not None


def _place(uri: str) -> tuple[str, int]:
    *_, key, name = uri.split("/")
    return key, int(name.removesuffix(".parquet"))
