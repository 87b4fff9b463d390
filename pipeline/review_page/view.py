"""Holds what the page shows: a table, its index, its photographs and its reviews.

`api.py` turns requests into calls of this; all calls block, so that it makes them in threads.
"""

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.cache import ByteCache
from pipeline.review_page.claims import Claims
from pipeline.review_page.grid import GridQuery
from pipeline.review_page.loaded_table import LoadedTable, TableLoader
from pipeline.review_page.photographs import PhotographReader
from pipeline.review_page.pictures import THUMBNAIL_QUALITY, PictureMaker, PictureRequest
from pipeline.review_page.requests import BadRequest
from pipeline.review_page.segment_rows import SegmentRows
from pipeline.review_page.settings import ReviewSettings, ViewSettings
from pipeline.review_page.submissions import Submission, posted_revision
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_segment
from pipeline.reviews.reviewed import reason_stale, with_labels_of
from pipeline.reviews.revision import ReviewedSegment, Revision
from pipeline.reviews.rules import is_thing
from pipeline.reviews.saving import Conflict, save
from pipeline.storage import Storage
from pipeline.table.label_colours import label_colour
from pipeline.table.plans import plan_numbers
from pipeline.table.store import TableSpec, TableStore

_THUMBNAIL_BYTES = 2**26
_PHOTO_BYTES = 2**25
_LONGEST_WAIT_SECONDS = 20.0


class TableView:
    """A table as the page shows it; may be used by several threads."""

    def __init__(
        self,
        settings: ViewSettings,
        review: ReviewSettings | None,
        *,
        storage: Storage,
        reading: ReadSettings,
    ) -> None:
        """Opens the table; `load` reads its index.

        Raises:
            NoTable: there is no table.
            ValueError: its `_table.json` is of another version.
        """
        self.settings, self.review, self.reading = settings, review, reading
        # Nobody waits at a page for minutes; the browser keeps a draft and sends it again.
        seconds = min(storage.storage_seconds, _LONGEST_WAIT_SECONDS)
        self.storage = dataclasses.replace(storage, storage_seconds=seconds)
        self.table = TableStore(settings.table, self.storage)
        self.spec = TableSpec.of(self.table.existing_spec())
        self.log = ReviewLog.of_table(
            self.table.uri, reviews=settings.reviews, storage=self.storage
        )
        self.claims = Claims(self.log.uri, self.storage)
        self.pictures = PictureMaker(reading)
        self._photographs = PhotographReader(
            storage=self.storage, reading=reading, image_root=settings.image_root
        )
        self._segments = SegmentRows(self.table)
        self._thumbnails = ByteCache(most_bytes=_THUMBNAIL_BYTES)
        self._photos = ByteCache(most_bytes=_PHOTO_BYTES)
        self._plans: Mapping[str, int] | None = None
        self._lock, self._reloading = threading.Lock(), threading.Lock()
        self._loader = TableLoader(
            table=self.table.uri,
            spec=self.spec,
            log=self.log,
            storage=storage,
            queue=review.queue if review else None,
            agreement=settings.agreement,
        )
        self.now: LoadedTable
        """The table as it was read last. A request takes it once: places differ between two."""

    def load(self) -> None:
        """Reads the index and the files beside the table.

        Raises:
            WrongUsage: the queue or the agreement is none.
            StorageFault: the storage failed, after retries.
        """
        self.now = self._loader.load()

    def reload(self) -> bool:
        """Reads the table again if its units have changed; returns whether they have.

        Returns False at once where another thread is at it.

        Raises:
            StorageFault: the storage failed, after retries; the table is shown as it was.
        """
        if not self._reloading.acquire(blocking=False):
            return False
        try:
            if self._loader.version() == self.now.version:
                return False
            before = self.now
            self.now = self._loader.load(before=before)
            self.now.state.take(before.state)  # what was saved meanwhile
            return True
        finally:
            self._reloading.release()

    def close(self) -> None:
        """Ends the child processes that decode."""
        self.pictures.close()

    @property
    def can_save(self) -> bool:
        return self.review is not None

    def about(self, *, reviewer: str | None) -> dict[str, Any]:
        """Describes the table: `GET /api/table`."""
        now = self.now
        counts = now.state.label_counts().tolist()
        return {
            "table": self.table.uri,
            "version": now.version,
            "task": self.spec.task,
            "labels": [
                {
                    "id": label_id,
                    "name": name,
                    "is_thing": is_thing(self.spec, label_id),
                    "color": label_colour(name, label_id),
                    "segments": counts[label_id],
                }
                for label_id, name in enumerate(self.spec.labels)
            ],
            "images": len(now.index),
            "images_in_error": now.index.num_errors,
            "reviewer": reviewer,
            "reviewers": now.state.reviewers(),
            "can_save": self.can_save,
            "queue": "rank" in now.index.values,
            "queue_missing": now.queue_missing,
            "counts": now.state.counts(),
            "reviews_are_loaded": now.state.is_loaded,
            "sorts": now.grid.sorts,
        }

    def images(self, query: GridQuery) -> dict[str, Any]:
        """Returns a part of the grid: `GET /api/images`."""
        now = self.now
        return {"version": now.version, **now.grid.part(query)}

    def image_segments(self, image_id: str) -> dict[str, Any]:
        """Returns the newest state of an image: `GET /api/segments`."""
        row = self._row(image_id)
        newest = self.log.latest(image_id)
        if newest is not None:
            self.now.state.add(newest)
        is_other_photo = newest is not None and newest.base_etag != row["etag"]
        if newest is not None and self._counts(newest, row):
            return state_of(with_labels_of(self.spec, newest))
        return {
            "image_id": image_id,
            "height": row["height"],
            "width": row["width"],
            # A state of another photograph has other pixels, so that no change begins with it.
            "revision": 0 if newest is None or is_other_photo else newest.revision,
            "status": None,
            "comment": None,
            "reviewer": newest.reviewer if newest else None,
            "created_at": newest.created_at.isoformat() if newest else None,
            "is_stale": newest is not None,
            "segments": [asdict(each) for each in self._model_segments(row)],
        }

    def save(self, submission: Submission, *, reviewer: str) -> Revision | Conflict:
        """Saves what the page sent: `POST /api/revisions`.

        Raises:
            BadRequest: the submission breaks a rule of reviews, or its parent does not exist.
            UnknownImage: the table has no such image without error.
            StorageFault: nothing is known to be saved; sending it again does no harm.
        """
        row = self._row(submission.image_id)
        before = self._model_segments(row)
        if submission.parent_revision > 0:
            before = (*self._parent(submission), *before)
        revision = posted_revision(
            submission,
            row=row,
            plan=self._plan_of(row["unit_id"]),
            before=before,
            spec=self.spec,
            reviewer=reviewer,
        )
        try:
            saved = save(self.log, revision, base=lambda: self._model_segments(row))
        except ValueError as error:
            raise BadRequest(str(error)) from error
        self.now.state.add(saved.theirs if isinstance(saved, Conflict) else saved)
        return saved

    def photo(self, image_id: str, *, longest_side: int | None) -> bytes:
        """Returns a photograph as a JPEG, upright: `GET /api/photo`."""
        row = self._row(image_id)
        key = (image_id, longest_side)
        kept = self._photos.get(key)
        if kept is None:
            kept = self._picture(row, longest_side=longest_side)
            self._photos.put(key, kept)
        return kept

    def thumbnail_version(self, image_id: str) -> str:
        """Returns a text that changes with what a thumbnail of the image shows."""
        now = self.now
        place = now.index.known_place(image_id)
        review = now.state.of(place)
        row = now.index.row(place)
        return f"{image_id} {row['etag']} {row['unit_id']} {review.revision if review else 0}"

    def thumbnail(self, image_id: str, *, size: int, overlay: bool) -> bytes:
        """Returns a small picture as a JPEG: `GET /api/thumbnail`."""
        key = (self.thumbnail_version(image_id) if overlay else image_id, size)
        kept = self._thumbnails.get(key)
        if kept is None:
            row = self._row(image_id)
            kept = self._picture(
                row,
                longest_side=size,
                segments=self._drawn(row) if overlay else (),
                quality=THUMBNAIL_QUALITY,
            )
            self._thumbnails.put(key, kept)
        return kept

    def _drawn(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        now = self.now
        review = now.state.of(now.index.known_place(row["image_id"]))
        segments = self._model_segments(row)
        if review is not None and not review.is_stale:
            newest = self.log.read(row["image_id"], review.revision)
            segments = with_labels_of(self.spec, newest).segments
        return tuple(
            {
                "segment_id": each.segment_id,
                "label_id": each.label_id,
                "label": each.label,
                "rle": each.rle,
            }
            for each in segments
        )

    def _picture(self, row: Mapping[str, Any], **options: Any) -> bytes:
        image = self._photographs.read(row)
        request = PictureRequest(
            image_id=image.image_id, uri=image.uri, member=image.member, etag=image.etag,
            data=image.data, row=image.row, height=row["height"], width=row["width"], **options,
        )  # fmt: skip
        return self.pictures.make(request)

    def _row(self, image_id: str) -> dict[str, Any]:
        index = self.now.index
        return index.row(index.known_place(image_id))

    def _model_segments(self, row: Mapping[str, Any]) -> tuple[ReviewedSegment, ...]:
        return tuple(map(model_segment, self._segments.of_image(row)))

    def _parent(self, submission: Submission) -> tuple[ReviewedSegment, ...]:
        try:
            parent = self.log.read(submission.image_id, submission.parent_revision)
        except FileNotFoundError as error:
            raise BadRequest(
                f"parent_revision must be a revision of {submission.image_id} or 0, got "
                f"{submission.parent_revision}"
            ) from error
        known = [each for each in parent.segments if each.label in self.spec.labels]
        return with_labels_of(self.spec, parent.replace(segments=tuple(known))).segments

    def _counts(self, revision: Revision, row: Mapping[str, Any]) -> bool:
        return reason_stale(revision, {**row, "status": "ok"}, spec=self.spec) is None

    def _plan_of(self, unit_id: str) -> int:
        with self._lock:
            if self._plans is None or unit_id not in self._plans:
                self._plans = plan_numbers(self.table)
            return self._plans.get(unit_id, -1)


def state_of(revision: Revision) -> dict[str, Any]:
    """Returns a revision as `GET /api/segments` describes a state."""
    return {
        "image_id": revision.image_id,
        "height": revision.height,
        "width": revision.width,
        "revision": revision.revision,
        "status": revision.status,
        "comment": revision.comment,
        "reviewer": revision.reviewer,
        "created_at": revision.created_at.isoformat(),
        "is_stale": False,
        "segments": [asdict(each) for each in revision.segments],
    }
