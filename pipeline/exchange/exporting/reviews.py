"""Lays reviews over the rows of a table, unit by unit.

Only the numbers of the newest revisions are in memory; their segments are read with their unit.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipeline.reviews.log import LogListing, ReviewLog
from pipeline.reviews.reviewed import REVIEWED_SEGMENTS, numbered, reason_stale
from pipeline.reviews.revision import Revision, review_key
from pipeline.table.store import TableSpec

UNUSABLE = "reviewed as unusable"
UNREVIEWED = "without a review that was accepted or corrected"
STALE = "reviewed as another photograph"
REVIEW_REASONS = (UNUSABLE, UNREVIEWED, STALE)
"""Reasons to leave out an image that are no fault of its photograph."""


@dataclass(frozen=True, kw_only=True)
class ReviewChoice:
    """The decision about an image by its newest review."""

    revision: Revision | None = None
    """The revision whose segments are exported; None for the model's."""
    left_out: str | None = None
    """The reason to leave the image out."""


@dataclass(frozen=True, kw_only=True)
class NewestReviews:
    """The newest revision of each image, as one listing showed it."""

    log: ReviewLog
    spec: TableSpec
    mode: Literal["only", "first", "ignore"]
    listing: LogListing | None = field(repr=False)
    """None where reviews are ignored."""
    newest: Mapping[str, int] = field(repr=False)
    """The greatest number by image key."""

    @classmethod
    def of(
        cls, log: ReviewLog, mode: Literal["only", "first", "ignore"], *, spec: TableSpec
    ) -> "NewestReviews":
        """Lists the reviews, unless they are ignored."""
        listing = None if mode == "ignore" else log.listing()
        newest = {} if listing is None else dict(listing.newest())
        return cls(log=log, spec=spec, mode=mode, listing=listing, newest=newest)

    @property
    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any new revision; "" without reviews."""
        if not self.newest:
            return ""
        lines = sorted(f"{key} {number}" for key, number in self.newest.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def of_images(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Revision]:
        """Reads the newest revision of each image that has one, by image_id."""
        keys = [review_key(row["image_id"]) for row in rows] if self.newest else []
        wanted = [(key, self.newest[key]) for key in keys if key in self.newest]
        if self.listing is None or not wanted:
            return {}
        found = self.log.revisions(wanted, listing=self.listing)
        return {revision.image_id: revision for revision in found}

    def choice(self, revision: Revision | None, row: Mapping[str, Any]) -> ReviewChoice:
        """Decides about an image by its newest revision.

        Args:
            row: its row of `images`.
        """
        if self.mode == "ignore":
            return ReviewChoice()
        if revision is not None and reason_stale(revision, dict(row), spec=self.spec) is not None:
            return ReviewChoice(left_out=STALE if self.mode == "only" else None)
        if revision is not None and revision.status == "unusable":
            return ReviewChoice(left_out=UNUSABLE)
        if self.mode == "only" and (revision is None or not revision.is_settled):
            return ReviewChoice(left_out=UNREVIEWED)
        return ReviewChoice(revision=revision)

    def segments(self, revision: Revision) -> pa.Table:
        """Returns the segments of a revision with the columns `REVIEWED_SEGMENTS`."""
        label_ids = {name: number for number, name in enumerate(self.spec.labels)}
        rows = [
            {
                **asdict(segment),
                "segment_id": number,
                "label_id": label_ids[segment.label],
                "image_id": revision.image_id,
                "height": revision.height,
                "width": revision.width,
            }
            for number, segment in numbered(revision)
        ]
        return pa.Table.from_pylist(rows, schema=REVIEWED_SEGMENTS)
