"""Reads what the model says of one image, as the state that a first revision begins with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.reviews.revision import SEGMENT_FIELDS, ReviewedSegment, Revision, Status
from pipeline.table.latest import rows_of_images
from pipeline.table.plans import plan_numbers
from pipeline.table.store import TableSpec, TableStore

_COLUMNS = [field.name for field in SEGMENT_FIELDS if not field.name.startswith("origin")]


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The latest rows of an image, and what made them."""

    image_id: str
    unit_id: str
    plan: int
    etag: str
    table_fingerprint: str
    model_fingerprint: str
    height: int
    width: int
    segments: tuple[ReviewedSegment, ...]

    def revision(
        self,
        *,
        status: Status,
        reviewer: str,
        created_at: datetime,
        tool: str,
        revision: int = 1,
        parent_revision: int = 0,
        **fields: Any,
    ) -> Revision:
        """Returns a revision of this image; its segments are the model's unless given."""
        return Revision(
            **{
                "image_id": self.image_id,
                "revision": revision,
                "parent_revision": parent_revision,
                "base_unit_id": self.unit_id,
                "base_plan": self.plan,
                "base_etag": self.etag,
                "table_fingerprint": self.table_fingerprint,
                "model_fingerprint": self.model_fingerprint,
                "height": self.height,
                "width": self.width,
                "status": status,
                "reviewer": reviewer,
                "created_at": created_at,
                "tool": tool,
                "segments": self.segments,
                **fields,
            }
        )


def model_state(table: TableStore, image_id: str) -> ModelState:
    """Reads the model's rows of one image; reads the identifiers of all images.

    Raises:
        KeyError: the table has no such image, or its latest row is in error.
    """
    rows, segments = rows_of_images(table, [image_id])
    row = rows[-1] if rows else None
    if row is None or row["status"] != "ok":
        state = "is in error" if row else "is not in the table"
        raise KeyError(f"{image_id} {state}, {table.uri}: only images without error are reviewed")
    spec = TableSpec.of(table.existing_spec())
    return ModelState(
        image_id=image_id,
        unit_id=row["unit_id"],
        plan=plan_numbers(table).get(row["unit_id"], -1),
        etag=row["etag"],
        table_fingerprint=spec.fingerprint,
        model_fingerprint=spec.model_fingerprint,
        height=row["height"],
        width=row["width"],
        segments=tuple(
            model_segment(each) for each in sorted(segments, key=lambda each: each["segment_id"])
        ),
    )


def model_segment(row: Mapping[str, Any]) -> ReviewedSegment:
    """Returns a row of the table's `segments` as a segment of a revision that changes nothing.

    Columns that the table's schema does not have are None.
    """
    columns: dict[str, Any] = {name: row.get(name) for name in _COLUMNS}
    return ReviewedSegment(**columns, origin="model", origin_segment_id=row["segment_id"])
