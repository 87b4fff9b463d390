"""Tables with photographs of random segments, and revisions of them as reviewers save them."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import ReviewedSegment, Revision
from pipeline.table.store import TableStore

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def looked_at(table: TableStore, image_id: str, **changes: Any) -> Revision:
    """The model's rows as a first revision that accepts them."""
    state = model_state(table, image_id)
    return state.revision(
        status="accepted", reviewer="anna", created_at=NOON, tool="test", **changes
    )


def relabelled(
    segments: Sequence[ReviewedSegment], segment_id: int, label: str, label_id: int
) -> tuple[ReviewedSegment, ...]:
    """The segments with another label at one of them."""
    return tuple(
        dataclasses.replace(each, label=label, label_id=label_id, score=None, origin="human")
        if each.segment_id == segment_id
        else each
        for each in segments
    )
