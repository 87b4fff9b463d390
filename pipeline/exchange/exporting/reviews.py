"""Lays reviews over the rows of a table, unit by unit.

Only the numbers of the newest revisions are in memory; their segments are read with their unit.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipeline.reviews.log import LogEntry, ReviewLog
from pipeline.reviews.revision import Revision, image_key
from pipeline.table.store import SEGMENTS

_ORIGIN = pa.field("origin", pa.string())


@dataclass(frozen=True, kw_only=True)
class NewestReviews:
    """The newest revision of each image, as one listing showed it."""

    log: ReviewLog | None
    """None where reviews are ignored."""
    mode: Literal["only", "first", "ignore"]
    entries: dict[str, dict[int, LogEntry]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, log: ReviewLog, mode: Literal["only", "first", "ignore"]) -> "NewestReviews":
        """Lists the reviews, unless they are ignored."""
        if mode == "ignore":
            return cls(log=None, mode=mode)
        return cls(log=log, mode=mode, entries=log.entries())

    @property
    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any new revision; "" without reviews."""
        if not self.entries:
            return ""
        newest = sorted(f"{key} {max(numbers)}" for key, numbers in self.entries.items())
        return hashlib.sha256("\n".join(newest).encode()).hexdigest()[:16]

    def of_images(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Revision]:
        """Reads the newest revision of each image that has one, by image_id."""
        if self.log is None or not self.entries:
            return {}
        keys = [image_key(row["image_id"]) for row in rows]
        wanted = [(key, max(self.entries[key])) for key in keys if key in self.entries]
        if not wanted:
            return {}
        found = self.log.revisions(wanted, entries=self.entries)
        return {revision.image_id: revision for revision in found}


def reviewed_segments(revision: Revision, *, label_ids: Mapping[str, int]) -> pa.Table:
    """Returns the segments of a revision, with the columns of `segments` and `origin`.

    Args:
        label_ids: the labels of the table, by name.

    Raises:
        ValueError: a label of the revision is none of the table's.
    """
    size = {
        "image_id": revision.image_id,
        "height": revision.height,
        "width": revision.width,
    }
    unknown = {segment.label for segment in revision.segments} - label_ids.keys()
    if unknown:
        raise ValueError(
            f"revision {revision.revision} of {revision.image_id} has the label "
            f"{min(unknown)!r}, which the table does not have; give the reviews of this table, or "
            "--reviewed ignore"
        )
    rows = [
        {**asdict(segment), **size, "label_id": label_ids[segment.label]}
        for segment in revision.segments
    ]
    return pa.Table.from_pylist(rows, schema=SEGMENTS.append(_ORIGIN))
