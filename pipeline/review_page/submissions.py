"""Turns what the page sends into a revision, checked as untrusted input.

Only shapes, labels and words are taken from the page. What follows from them (areas, boxes, ids of
labels) is computed, and what the model said (scores, runner-up labels) comes from the state that
was changed: a save without a change gives the rows it came from.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.review_page.requests import BadRequest
from pipeline.reviews.revision import STATUSES, Operation, ReviewedSegment, Revision
from pipeline.reviews.rules import REVIEW_RULES, broken_rules, is_thing
from pipeline.reviews.shapes import shape_of_rle
from pipeline.table.store import TableSpec

_LONGEST_COMMENT = 4000
_MOST_SEGMENTS = 20_000
_MOST_OPERATIONS = 100_000
_LONGEST_KIND = 40
_LARGEST_ID = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """The state of one image that the page sends."""

    image_id: str
    parent_revision: int
    status: str
    comment: str | None
    seconds: float | None
    operations: tuple[Operation, ...]
    segments: tuple[Mapping[str, Any], ...]
    """Checked for their types; `posted_revision` completes them."""


def posted_submission(content: object) -> Submission:
    """Checks the types and sizes of a JSON body.

    Raises:
        BadRequest: a field is missing or is not what it must be.
    """
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    status = content.get("status")
    if status not in STATUSES:
        raise BadRequest(f"status must be one of {', '.join(STATUSES)}, got {_shown(status)}")
    seconds = content.get("seconds")
    if seconds is not None:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= 1e9:  # NaN is not within either
            raise BadRequest(f"seconds must be 0 or more, got {_shown(seconds)}")
        seconds = float(seconds)
    comment = _text(content, "comment", longest=_LONGEST_COMMENT, may_be_none=True)
    return Submission(
        image_id=str(_text(content, "image_id", longest=2**15)),
        parent_revision=_whole(content, "parent_revision", low=0),
        status=str(status),
        comment=(comment or "").strip() or None,
        seconds=seconds,
        operations=tuple(map(_operation, _objects(content, "operations", most=_MOST_OPERATIONS))),
        segments=tuple(map(_checked_segment, _objects(content, "segments", most=_MOST_SEGMENTS))),
    )


def posted_revision(
    submission: Submission,
    *,
    row: Mapping[str, Any],
    plan: int,
    before: Sequence[ReviewedSegment],
    spec: TableSpec,
    reviewer: str,
) -> Revision:
    """Returns the revision to save.

    Args:
        row: the image's columns of the index.
        before: the segments of the state that was changed, and of the model; the first of several
            that fit counts.

    Raises:
        BadRequest: the segments break a rule of reviews.
    """
    size = {"height": row["height"], "width": row["width"]}
    state = _Before(before)
    segments = [_segment(given, before=state, spec=spec, **size) for given in submission.segments]
    revision = Revision(
        image_id=submission.image_id,
        revision=submission.parent_revision + 1,
        parent_revision=submission.parent_revision,
        base_unit_id=row["unit_id"],
        base_plan=plan,
        base_etag=row["etag"],
        table_fingerprint=spec.fingerprint,
        model_fingerprint=spec.model_fingerprint,
        status=submission.status,  # type: ignore[arg-type]
        reviewer=reviewer,
        created_at=datetime.now(UTC),
        tool="page",
        seconds=submission.seconds,
        operations=submission.operations,
        comment=submission.comment,
        segments=tuple(sorted(segments, key=lambda each: each.segment_id)),
        **size,
    )
    for rule, found in broken_rules(revision, spec=spec):
        raise BadRequest(f"{REVIEW_RULES[rule]}; {found}")
    return revision


class _Before:
    """The segments before a change, by what they are found by."""

    def __init__(self, segments: Sequence[ReviewedSegment]) -> None:
        self.same = {(each.label, each.rle): each for each in reversed(segments)}
        self.by_origin: dict[tuple[int, str], ReviewedSegment] = {}
        for each in segments:
            if each.origin_segment_id is not None:
                self.by_origin.setdefault((each.origin_segment_id, each.label), each)
        self.origins = {each.origin_segment_id for each in segments}


def _segment(
    given: Mapping[str, Any], *, before: _Before, spec: TableSpec, height: int, width: int
) -> ReviewedSegment:
    label, rle, segment_id = given["label"], given["rle"], given["segment_id"]
    same = before.same.get((label, rle))
    if same is not None:
        return dataclasses.replace(same, segment_id=segment_id)
    if label not in spec.labels:
        raise BadRequest(
            f"segment {segment_id}: label must be one of the table's, got {_shown(label)}"
        )
    try:
        shape = shape_of_rle(rle, height=height, width=width)
    except ValueError as error:
        raise BadRequest(f"segment {segment_id}: {error}") from error
    label_id = spec.labels.index(label)
    origin = given["origin_segment_id"]
    # Its model had given it this label, so that the scores are of it.
    old = before.by_origin.get((origin, label)) if origin is not None else None
    return ReviewedSegment(
        segment_id=segment_id,
        label_id=label_id,
        label=label,
        is_thing=is_thing(spec, label_id),
        score=old.score if old else None,
        second_label_id=old.second_label_id if old else None,
        second_label=old.second_label if old else None,
        second_score=old.second_score if old else None,
        rle=rle,
        origin="human",
        origin_segment_id=origin if origin in before.origins else None,
        **asdict(shape),
    )


def _checked_segment(given: Mapping[str, Any]) -> Mapping[str, Any]:
    origin = given.get("origin_segment_id")
    return {
        "segment_id": _whole(given, "segment_id", low=1),
        "label": _text(given, "label", longest=1000),
        "rle": _text(given, "rle", longest=2**24),
        "origin_segment_id": None if origin is None else _whole(given, "origin_segment_id", low=1),
    }


def _operation(given: Mapping[str, Any]) -> Operation:
    ids = given.get("segment_ids") or []
    if not isinstance(ids, list) or len(ids) > _MOST_SEGMENTS:
        raise BadRequest(f"segment_ids must be a list, got {_shown(ids)}")
    return Operation(
        kind=str(_text(given, "kind", longest=_LONGEST_KIND)),
        segment_ids=tuple(_whole({"segment_ids": each}, "segment_ids", low=0) for each in ids),
        label_from=_text(given, "label_from", longest=1000, may_be_none=True),
        label_to=_text(given, "label_to", longest=1000, may_be_none=True),
        pixels=_whole({"pixels": given.get("pixels") or 0}, "pixels", low=0, high=2**53),
    )


def _objects(content: Mapping[str, Any], name: str, *, most: int) -> list[Mapping[str, Any]]:
    values = content.get(name, [])
    if not isinstance(values, list) or not all(isinstance(each, dict) for each in values):
        raise BadRequest(f"{name} must be a list of objects, got {_shown(values)}")
    if len(values) > most:
        raise BadRequest(f"{name} may have at most {most} entries, got {len(values)}")
    return values


def _whole(content: Mapping[str, Any], name: str, *, low: int, high: int = _LARGEST_ID) -> int:
    value = content.get(name)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value, is_whole = int(value), True
    if not is_whole or not low <= value <= high:  # type: ignore[operator]
        raise BadRequest(f"{name} must be a whole number from {low} on, got {_shown(value)}")
    return value  # type: ignore[return-value]


def _text(
    content: Mapping[str, Any], name: str, *, longest: int, may_be_none: bool = False
) -> str | None:
    value = content.get(name)
    if value is None and may_be_none:
        return None
    if not isinstance(value, str) or len(value) > longest:
        raise BadRequest(
            f"{name} must be text of at most {longest} characters, got {_shown(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{name} must be text that UTF-8 can hold") from None
    return value


def _shown(value: object) -> str:
    return repr(value)[:60]
