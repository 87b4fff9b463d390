"""Finds what a person changed: the masks of a file against the segments that it was made of.

A segment that is as it was keeps its row, its score and its origin. One with another label or mask
keeps its id and is a human's. What is left over on both sides was deleted or drawn.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskformer import Runs, area_of, painted, rle_runs
from pipeline.exchange.importing.regions import DrawnMask
from pipeline.reviews.changes import reshaped
from pipeline.reviews.revision import Operation, ReviewedSegment
from pipeline.reviews.rules import is_thing
from pipeline.reviews.shapes import shape_of_rle
from pipeline.table.store import TableSpec

_LEAST_IOU = 0.5
_LEAST_SHARE = 0.5
"""Of the smaller mask, in both: a large segment of which little is left is still the same."""


@dataclass(frozen=True, kw_only=True)
class ImportedState:
    """The segments of an image after an import, and what leads there."""

    segments: tuple[ReviewedSegment, ...]
    """In the order of their ids."""
    operations: tuple[Operation, ...]
    """Empty if nothing changed."""


@dataclass(frozen=True, kw_only=True)
class _Mask:
    """A mask of the file."""

    label: str
    rle: str
    runs: Runs


def imported_state(
    before: Sequence[ReviewedSegment],
    masks: Sequence[DrawnMask],
    *,
    spec: TableSpec,
    height: int,
    width: int,
    left_out: frozenset[int],
    shown: Mapping[int, str] | None,
) -> ImportedState:
    """Returns the state that the masks of a file make of the segments before.

    Args:
        left_out: segment_ids that the export did not hold; they stay, below the file's masks.
        shown: by segment_id, the run lengths that the format held of a segment, where it could not
            hold it whole; what it did not hold at all is absent.
    """
    size = {"height": height, "width": width}
    drawn = [
        _Mask(label=mask.label, rle=rle_of_runs(mask.runs, **size), runs=mask.runs)
        for mask in masks
    ]
    in_file = [each for each in before if each.segment_id not in left_out]
    rles = {each.segment_id: each.rle for each in in_file} if shown is None else shown
    in_file = [each for each in in_file if each.segment_id in rles]
    after: dict[int, ReviewedSegment] = {
        each.segment_id: each for each in before if each not in in_file
    }
    below = dict(after)
    operations: list[Operation] = []
    next_id = max((each.segment_id for each in before), default=0) + 1
    matches, gone, new = _matched(in_file, drawn, rles=rles, **size)
    for old, mask in matches:
        if mask.rle != rles[old.segment_id]:
            after[old.segment_id] = dataclasses.replace(
                old, rle=mask.rle, origin="human", **_shape(mask, **size)
            )
        else:
            after[old.segment_id] = old
        if mask.label != old.label:
            after[old.segment_id] = _with_label(after[old.segment_id], mask.label, spec=spec)
        if after[old.segment_id] is not old:
            kind = "relabel" if mask.rle == rles[old.segment_id] else "redraw"
            operations.append(
                Operation(
                    kind=kind,
                    segment_ids=(old.segment_id,),
                    label_from=old.label,
                    label_to=mask.label,
                    pixels=_num_changed(old, mask, rles=rles, **size),
                )
            )
    for old in gone:
        operations.append(
            Operation(
                kind="delete", segment_ids=(old.segment_id,), label_from=old.label, pixels=old.area
            )
        )
    for mask in new:
        drawn_id = _segment_to_join(after, mask, spec=spec)
        if drawn_id is None:
            drawn_id, next_id = next_id, next_id + 1
            fields = _label(mask.label, spec) | _shape(mask, **size)
            after[drawn_id] = ReviewedSegment(segment_id=drawn_id, rle=mask.rle, **fields)
        else:
            after[drawn_id] = _joined(after[drawn_id], mask, **size)
        operations.append(
            Operation(
                kind="draw",
                segment_ids=(drawn_id,),
                label_to=mask.label,
                pixels=area_of(mask.runs),
            )
        )
    if operations and below and spec.task != "instance":
        operations += _cut_below(after, below, **size)
    if sorted((s.label, s.rle) for s in after.values()) == sorted((s.label, s.rle) for s in before):
        return ImportedState(segments=tuple(before), operations=())
    # A review may be of another table, whose labels have other ids.
    segments = (
        dataclasses.replace(after[number], label_id=spec.labels.index(after[number].label))
        for number in sorted(after)
    )
    return ImportedState(segments=tuple(segments), operations=tuple(operations))


def _matched(
    before: Sequence[ReviewedSegment],
    masks: Sequence[_Mask],
    *,
    rles: Mapping[int, str],
    height: int,
    width: int,
) -> tuple[list[tuple[ReviewedSegment, _Mask]], list[ReviewedSegment], list[_Mask]]:
    """Pairs segments with masks: equal in all, equal in their pixels, then by overlap.

    Returns the pairs, the segments that are gone and the masks that are new.
    """
    pairs: list[tuple[ReviewedSegment, _Mask]] = []
    left, free = list(before), list(masks)
    for with_label in (True, False):
        waiting: dict[tuple[str, str], list[_Mask]] = defaultdict(list)
        for mask in reversed(free):
            waiting[mask.label if with_label else "", mask.rle].append(mask)
        still = []
        for old in left:
            found = waiting[old.label if with_label else "", rles[old.segment_id]]
            if found:
                pairs.append((old, found.pop()))
            else:
                still.append(old)
        left = still
        # Two masks of a file may be equal; identity tells them apart.
        unpaired = {id(mask) for those in waiting.values() for mask in those}
        free = [mask for mask in free if id(mask) in unpaired]
    runs = [rle_runs(rles[old.segment_id], height=height, width=width) for old in left]
    overlaps = []
    for row, old in enumerate(left):
        for column, mask in enumerate(free):
            shared = shared_pixels(runs[row], mask.runs)
            areas = area_of(runs[row]), area_of(mask.runs)
            iou = shared / (sum(areas) - shared)
            is_alike = old.label == mask.label
            if iou >= _LEAST_IOU or (is_alike and shared >= _LEAST_SHARE * min(areas)):
                overlaps.append((not is_alike, -iou, row, column))
    taken_rows, taken_columns = set[int](), set[int]()
    for _, _, row, column in sorted(overlaps):
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((left[row], free[column]))
    gone = [old for row, old in enumerate(left) if row not in taken_rows]
    new = [mask for column, mask in enumerate(free) if column not in taken_columns]
    return pairs, gone, new


def _shape(mask: _Mask, *, height: int, width: int) -> dict[str, Any]:
    return dataclasses.asdict(shape_of_rle(mask.rle, height=height, width=width))


def _label(name: str, spec: TableSpec) -> dict[str, Any]:
    """Returns the fields of a segment that a person labelled."""
    label_id = spec.labels.index(name)
    is_countable = is_thing(spec, label_id)
    return {"label": name, "label_id": label_id, "is_thing": is_countable, "origin": "human"}


def _with_label(segment: ReviewedSegment, label: str, *, spec: TableSpec) -> ReviewedSegment:
    sure = dataclasses.replace(segment, second_label_id=None, second_label=None, second_score=None)
    return dataclasses.replace(sure, score=None, **_label(label, spec))


def _segment_to_join(
    after: Mapping[int, ReviewedSegment], mask: _Mask, *, spec: TableSpec
) -> int | None:
    """Returns the segment that a drawn mask is a part of; None where it is one of its own.

    A label that is no thing has one segment in an image of a table.
    """
    if spec.task == "instance" or is_thing(spec, spec.labels.index(mask.label)):
        return None
    return next((number for number, each in after.items() if each.label == mask.label), None)


def _joined(old: ReviewedSegment, mask: _Mask, *, height: int, width: int) -> ReviewedSegment:
    runs = np.concatenate([rle_runs(old.rle, height=height, width=width), mask.runs])
    ids = painted([runs], [1], height=height, width=width)
    return reshaped(old, ids > 0)


def _num_changed(
    old: ReviewedSegment, mask: _Mask, *, rles: Mapping[int, str], height: int, width: int
) -> int:
    """Returns the pixels of a relabelled segment, else those that it gained or lost."""
    runs = rle_runs(rles[old.segment_id], height=height, width=width)
    shared, either = shared_pixels(runs, mask.runs), area_of(runs) + area_of(mask.runs)
    return either - shared if old.label != mask.label else either - 2 * shared


def _cut_below(
    after: dict[int, ReviewedSegment],
    below: Mapping[int, ReviewedSegment],
    *,
    height: int,
    width: int,
) -> Iterable[Operation]:
    """Takes pixels that the file's masks cover from segments that it did not hold."""
    order = [*below, *(number for number in after if number not in below)]
    runs = [rle_runs(after[number].rle, height=height, width=width) for number in order]
    ids = painted(runs, order, height=height, width=width)
    for number, old in below.items():
        mask = ids == number
        pixels = int(np.count_nonzero(mask))
        if pixels == old.area:
            continue
        yield Operation(
            kind="redraw" if pixels else "delete",
            segment_ids=(number,),
            label_from=old.label,
            label_to=old.label if pixels else None,
            pixels=old.area - pixels,
        )
        if pixels:
            after[number] = reshaped(old, mask)
        else:
            del after[number]


def shared_pixels(one: Runs, other: Runs) -> int:
    """Returns the number of pixels that two masks share."""
    if not len(one) or not len(other):
        return 0
    # Each run of `one` against the pixels of `other` before its ends.
    before = np.concatenate([[0], np.cumsum(other[:, 1] - other[:, 0])])

    def pixels_before(at: np.ndarray) -> np.ndarray:
        run = np.searchsorted(other[:, 0], at, side="right") - 1
        inside = np.minimum(at, other[run, 1]) - other[run, 0]
        return np.where(run >= 0, before[run] + inside, 0)

    return int((pixels_before(one[:, 1]) - pixels_before(one[:, 0])).sum())


def rle_of_runs(runs: Runs, *, height: int, width: int) -> str:
    """Returns COCO's compressed counts of a mask; `rle_runs` reads them."""
    from pycocotools import mask as coco

    # Runs that touch are one run.
    are_apart = runs[1:, 0] != runs[:-1, 1]
    starts = np.concatenate([runs[:1, 0], runs[1:, 0][are_apart]])
    ends = np.concatenate([runs[:-1, 1][are_apart], runs[-1:, 1]])
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    counts = counts[:-1] if len(edges) and not counts[-1] else counts
    uncompressed = {"size": [height, width], "counts": counts.tolist()}
    return coco.frPyObjects(uncompressed, height, width)["counts"].decode("ascii")
