"""Defines a revision: what a reviewer saved of one image, with the whole state of its segments.

`saving.py` makes one that can be added, `log.py` stores it, `reviewed.py` lays the newest ones over
a table. A revision holds every segment of the image, also those that nobody touched: it stays true
under the rows of another model.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

Status = Literal["accepted", "corrected", "unusable", "flagged"]
"""`accepted`: right as it was; `corrected`: right now; `unusable`: no image to learn from or to
count; `flagged`: not settled, another person must look."""

STATUSES: tuple[Status, ...] = ("accepted", "corrected", "unusable", "flagged")
SETTLED: tuple[Status, ...] = ("accepted", "corrected")
"""A revision with such a status holds what a person takes for true."""

Origin = Literal["model", "human"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A step of a reviewer, for statistics: the state does not depend on it."""

    kind: str
    """`relabel`, `delete`, `merge`, `split`, `draw`, `erase`, `fill`, `import` and such."""
    segment_ids: tuple[int, ...] = ()
    label_from: str | None = None
    label_to: str | None = None
    pixels: int = 0


@dataclass(frozen=True, kw_only=True)
class ReviewedSegment:
    """A segment of a revision, with the columns of the table's `segments`."""

    segment_id: int
    label_id: int
    """By the labels of the table that was reviewed; readers match labels by name."""
    label: str
    is_thing: bool
    score: float | None = None
    """The model's; None where a person drew the segment or gave it its label."""
    second_label_id: int | None = None
    second_label: str | None = None
    second_score: float | None = None
    area: int
    bbox_x: int
    bbox_y: int
    bbox_w: int
    bbox_h: int
    rle: str
    origin: Origin = "model"
    """`human` where a person changed the pixels or the label."""
    origin_segment_id: int | None = None
    """The segment_id of the model's row that it came from; None where there was none."""

    def __post_init__(self) -> None:
        # As files hold them: a state that was read equals the state that was written.
        for name in ("score", "second_score"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, struct.unpack("f", struct.pack("f", value))[0])


@dataclass(frozen=True, kw_only=True)
class MergedRevision:
    """A revision that the reviewer had not seen, and whose changes were kept beside his."""

    revision: int
    reviewer: str


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The state of an image that a reviewer saved, and how it came about."""

    image_id: str
    revision: int
    """1, 2, … within the image; storage gives each number once."""
    parent_revision: int
    """The revision that this one changes; 0 for the model's rows."""
    base_unit_id: str
    base_plan: int
    """Number of the plan of the rows that were looked at."""
    base_etag: str
    """Etag of the photograph that was looked at; the revision is stale once it differs."""
    table_fingerprint: str
    model_fingerprint: str
    height: int
    width: int
    status: Status
    reviewer: str
    created_at: datetime
    """With its time zone; stored in UTC."""
    tool: str
    """`page`, `import coco_panoptic` and such."""
    seconds: float | None = None
    """Time that the reviewer spent on the image."""
    operations: tuple[Operation, ...] = ()
    changed_pixels: int = 0
    """Pixels whose segment or label differs from the parent's."""
    comment: str | None = None
    merged_with: tuple[MergedRevision, ...] = ()
    """Changes of others since the reviewer's state, which are in this one too."""
    submission: str = ""
    """Digest of what the reviewer sent: a save that is sent again is recognised by it."""
    segments: tuple[ReviewedSegment, ...] = ()
    """Ascending by id. An id stays when other segments are removed, so numbers may be missing."""

    @property
    def is_settled(self) -> bool:
        """Returns True if a person takes the segments for true."""
        return self.status in SETTLED

    def replace(self, **changes: Any) -> "Revision":
        """Returns a copy with other values in some fields."""
        return dataclasses.replace(self, **changes)


SEGMENT_FIELDS = (
    pa.field("segment_id", pa.int32()),
    pa.field("label_id", pa.int32()),
    pa.field("label", pa.string()),
    pa.field("is_thing", pa.bool_()),
    pa.field("score", pa.float32()),
    pa.field("second_label_id", pa.int32()),
    pa.field("second_label", pa.string()),
    pa.field("second_score", pa.float32()),
    pa.field("area", pa.int64()),
    pa.field("bbox_x", pa.int32()),
    pa.field("bbox_y", pa.int32()),
    pa.field("bbox_w", pa.int32()),
    pa.field("bbox_h", pa.int32()),
    pa.field("rle", pa.string()),
    pa.field("origin", pa.string()),
    pa.field("origin_segment_id", pa.int32()),
)
"""The columns of a segment in a revision; height and width stand at the revision."""

_OPERATION = pa.struct(
    [
        ("kind", pa.string()),
        ("segment_ids", pa.list_(pa.int32())),
        ("label_from", pa.string()),
        ("label_to", pa.string()),
        ("pixels", pa.int64()),
    ]
)

REVISIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("revision", pa.int32()),
        ("parent_revision", pa.int32()),
        ("base_unit_id", pa.string()),
        ("base_plan", pa.int32()),
        ("base_etag", pa.string()),
        ("table_fingerprint", pa.string()),
        ("model_fingerprint", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),
        ("reviewer", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("tool", pa.string()),
        ("seconds", pa.float64()),
        ("operations", pa.list_(_OPERATION)),
        ("changed_pixels", pa.int64()),
        ("comment", pa.string()),
        ("merged_with", pa.list_(pa.struct([("revision", pa.int32()), ("reviewer", pa.string())]))),
        ("submission", pa.string()),
        ("segments", pa.list_(pa.struct(SEGMENT_FIELDS))),
    ],
    metadata={"reviews_version": "1"},
)
"""One row per revision."""


def review_key(image_id: str) -> str:
    """Returns the name of an image's folder in the log: 24 hexadecimal digits."""
    return hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()[:24]


def table_of(revisions: Sequence[Revision]) -> pa.Table:
    """Returns one row of `REVISIONS` for each revision."""
    return pa.Table.from_pylist([asdict(revision) for revision in revisions], schema=REVISIONS)


def revision_of(row: Mapping[str, Any]) -> Revision:
    """Returns the revision that a row of `REVISIONS` holds."""
    nested = {
        "operations": tuple(
            Operation(**{**each, "segment_ids": tuple(each["segment_ids"] or ())})
            for each in row["operations"] or ()
        ),
        "merged_with": tuple(MergedRevision(**each) for each in row["merged_with"] or ()),
        "segments": tuple(ReviewedSegment(**each) for each in row["segments"] or ()),
    }
    return Revision(**{**row, **nested})
