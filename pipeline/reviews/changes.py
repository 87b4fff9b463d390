"""Compares two states of an image, and joins the changes of two reviewers who saw the same one.

A pixel has changed if it belongs to another segment, or its segment has another label. Segments are
matched by run lengths and label first, so that a file that numbers them anew changes nothing, and
then by their ids, which a reviewed segment keeps when others are removed.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from maskformer import decode_rle
from pipeline.reviews.revision import ReviewedSegment
from pipeline.reviews.shapes import Mask, rle_of_mask, shape_of_rle

Segments = Sequence[ReviewedSegment]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The differences of a state from the one it began with, by the first one's segment_id."""

    kept: dict[int, ReviewedSegment]
    """Segments that stayed, as they are now: same or another mask, label or id."""
    changed: frozenset[int]
    """Those of `kept` with another mask or label."""
    removed: frozenset[int]
    added: tuple[ReviewedSegment, ...]
    pixels: Mask

    @property
    def num_pixels(self) -> int:
        return int(np.count_nonzero(self.pixels))


def changes_between(before: Segments, after: Segments, *, height: int, width: int) -> Changes:
    """Finds what changed between two states of an image of that size."""
    kept = _matched(before, after)
    taken = {segment.segment_id for segment in kept.values()}
    pixels = np.zeros((height, width), np.bool_)
    changed: set[int] = set()
    removed: set[int] = set()

    def mask(segment: ReviewedSegment) -> Mask:
        return decode_rle(segment.rle, height=height, width=width)

    for old in before:
        new = kept.get(old.segment_id)
        if new is None:
            removed.add(old.segment_id)
            pixels |= mask(old)
        elif new.label != old.label:
            changed.add(old.segment_id)
            pixels |= mask(old) | mask(new)
        elif new.rle != old.rle:
            changed.add(old.segment_id)
            pixels |= mask(old) ^ mask(new)
    added = tuple(segment for segment in after if segment.segment_id not in taken)
    for segment in added:
        pixels |= mask(segment)
    return Changes(
        kept=kept,
        changed=frozenset(changed),
        removed=frozenset(removed),
        added=added,
        pixels=pixels,
    )


def joined_changes(
    before: Segments, theirs: Segments, mine: Segments, *, height: int, width: int
) -> tuple[ReviewedSegment, ...] | None:
    """Returns a state with the changes of both, None where they touch the same.

    They touch the same if both changed a pixel, or if one gave a segment another label or removed
    it while the other changed its mask.
    """
    size = {"height": height, "width": width}
    other, own = (changes_between(before, state, **size) for state in (theirs, mine))
    if (other.pixels & own.pixels).any():
        return None
    result = {segment.segment_id: segment for segment in theirs}
    labels = {segment.segment_id: segment.label for segment in before}
    for old in before:
        number = old.segment_id
        if number not in own.changed | own.removed:
            continue
        found = other.kept.get(number)
        if found is None:
            return None
        is_relabelled = number in own.removed or own.kept[number].label != labels[number]
        if number in other.changed and (is_relabelled or found.label != labels[number]):
            return None
        if number in own.removed:
            del result[found.segment_id]
            continue
        new = own.kept[number]
        if number in other.changed:
            old_mask, my_mask, their_mask = (
                decode_rle(each.rle, **size) for each in (old, new, found)
            )
            new = reshaped(new, their_mask ^ old_mask ^ my_mask)
        if new.area:
            result[found.segment_id] = dataclasses.replace(new, segment_id=found.segment_id)
        else:
            del result[found.segment_id]
    for segment in own.added:
        taken = segment.segment_id in result
        number = max(result, default=0) + 1 if taken else segment.segment_id
        result[number] = dataclasses.replace(segment, segment_id=number)
    return tuple(result[number] for number in sorted(result))


def reshaped(segment: ReviewedSegment, mask: Mask) -> ReviewedSegment:
    """Returns the segment with another mask, drawn by a person."""
    height, width = mask.shape
    rle = rle_of_mask(mask)
    shape = asdict(shape_of_rle(rle, height=height, width=width))
    return dataclasses.replace(segment, rle=rle, origin="human", **shape)


def _matched(before: Segments, after: Segments) -> dict[int, ReviewedSegment]:
    """Returns what became of segments, by their old ids; absent are those that are gone."""
    alike: defaultdict[tuple[str, str], list[ReviewedSegment]] = defaultdict(list)
    for segment in after:
        alike[segment.label, segment.rle].append(segment)
    matched: dict[int, ReviewedSegment] = {}
    for old in before:
        if found := alike[old.label, old.rle]:
            same = [each for each in found if each.segment_id == old.segment_id]
            matched[old.segment_id] = (same or found)[0]
            found.remove(matched[old.segment_id])
    taken = {segment.segment_id for segment in matched.values()}
    left = {each.segment_id: each for each in after if each.segment_id not in taken}
    for old in before:
        if old.segment_id not in matched and old.segment_id in left:
            matched[old.segment_id] = left[old.segment_id]
    return matched
