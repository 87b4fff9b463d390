"""The rules that the content of a revision must meet, checked before it is saved and afterwards."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from maskformer import is_overlapping, rle_runs
from pipeline.reviews.revision import STATUSES, Revision
from pipeline.reviews.shapes import shape_of_rle
from pipeline.table.store import TableSpec

_SIDES = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


def broken_rules(revision: Revision, *, spec: TableSpec) -> Iterator[tuple[str, str]]:
    """Yields each rule that a revision breaks, with what was found; `REVIEW_RULES` words them.

    Args:
        spec: the table's. A revision of a table with other labels is only checked for itself.
    """
    if revision.status not in STATUSES:
        yield "review_status", f"its status is {revision.status!r}"
    if not revision.reviewer.strip():
        yield "review_who", "its reviewer has no name"
    if revision.created_at.tzinfo is None:
        yield "review_who", f"its time {revision.created_at} has no time zone"
    if not 0 <= revision.parent_revision < revision.revision:
        yield "review_parent", f"its parent is {revision.parent_revision}"
    if min(revision.height, revision.width) < 1:
        yield "review_rle", f"its size is {revision.height} × {revision.width} (height × width)"
        return
    yield from _broken_segments(revision)
    if revision.table_fingerprint == spec.fingerprint:
        yield from _unknown_labels(revision, spec=spec)
    if spec.task != "instance" and (shared := _overlap(revision)):
        yield "review_overlap", shared


REVIEW_RULES = {
    "review_file": "every file of the reviews can be read and has their columns",
    "review_number": "an image's revisions count 1, 2, … without a gap, each in one place",
    "review_parent": "a revision's parent is an earlier one of its image, or 0",
    "review_image": "a revision has the size of its image, unless the photograph has changed since",
    "review_status": "a status is accepted, corrected, unusable or flagged",
    "review_who": "a revision names its reviewer, and the time with a time zone",
    "review_segment_id": "the segment_ids of a revision are from 1 on and ascending",
    "review_label": "label, label_id and is_thing are those of the table",
    "review_score": "a score is in [0, 1] or null",
    "review_rle": "an rle decodes to a mask of its image's size",
    "review_area": "the area is that of the rle's mask, and not 0",
    "review_box": "the box is that of the rle's mask",
    "review_overlap": "segments of a revision do not overlap (panoptic, semantic)",
    "review_joined": "joined files hold the revisions of the log",
}
"""The rules by name, each a sentence that must hold."""


def is_thing(spec: TableSpec, label_id: int) -> bool:
    """Returns whether segments of a label are things in a table of that spec."""
    if spec.task == "panoptic":
        return label_id not in (spec.label_ids_to_fuse or ())
    return spec.task == "instance"


def _broken_segments(revision: Revision) -> Iterator[tuple[str, str]]:
    before = 0
    for segment in revision.segments:
        name = f"segment {segment.segment_id}"
        if segment.segment_id <= before:
            yield "review_segment_id", f"{name} follows segment {before}"
        before = segment.segment_id
        if segment.origin not in ("model", "human"):
            yield "review_who", f"{name} has origin {segment.origin!r}"
        if segment.score is not None and not 0 <= segment.score <= 1:
            yield "review_score", f"{name} has score {segment.score}"
        try:
            shape = shape_of_rle(segment.rle, height=revision.height, width=revision.width)
        except ValueError as error:
            yield "review_rle", f"{name}: {error}"
            continue
        found = asdict(segment)
        if segment.area != shape.area or not shape.area:
            yield "review_area", f"{name}: area is {segment.area}, the mask has {shape.area}"
        boxes = [[values[side] for side in _SIDES] for values in (found, asdict(shape))]
        if boxes[0] != boxes[1]:
            yield "review_box", f"{name}: box is {boxes[0]}, the mask's {boxes[1]}"


def _unknown_labels(revision: Revision, *, spec: TableSpec) -> Iterator[tuple[str, str]]:
    for segment in revision.segments:
        label_id = segment.label_id
        is_known = 0 <= label_id < len(spec.labels) and spec.labels[label_id] == segment.label
        if not is_known or segment.is_thing != is_thing(spec, label_id):
            yield (
                "review_label",
                f"segment {segment.segment_id}: label_id {label_id}, label {segment.label!r}, "
                f"is_thing {segment.is_thing}",
            )


def _overlap(revision: Revision) -> str:
    """Returns which segments share pixels, empty where none do or a mask is damaged."""
    size = {"height": revision.height, "width": revision.width}
    try:
        masks = [rle_runs(segment.rle, **size) for segment in revision.segments]
    except ValueError:
        return ""
    if not is_overlapping(masks):
        return ""
    runs = np.concatenate(masks)
    ids = np.repeat([segment.segment_id for segment in revision.segments], list(map(len, masks)))
    order = runs[:, 0].argsort(kind="stable")
    ends = np.maximum.accumulate(runs[order, 1])
    at = int(np.flatnonzero(runs[order[1:], 0] < ends[:-1])[0])
    pair = sorted({int(ids[order[at]]), int(ids[order[at + 1]])})
    return f"segments {' and '.join(map(str, pair))} share pixels, among others"
