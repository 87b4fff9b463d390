"""The shapes of masks given as run lengths: area, box and shared pixels, of many at once.

No mask is decoded: a run adds to the area, widens the box and sets its pixels in a map of bits.
Refuses what `rle.py` refuses to decode. The check of a segment table calls it.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from maskformer.cpu.compiled import compiled
from maskformer.run_lengths.rle import BITS, FIRST_CHARACTER, LAST_PLACE, MORE, SIGN

LARGEST_MASK_PIXELS = 2**34
"""A larger height × width is taken for damage, not for an image: its map of bits has 2 GiB."""

_LONGEST_SHIFT = BITS * LAST_PLACE


@dataclass(frozen=True, kw_only=True)
class RleShapes:
    """Holds an entry for each rle, in their order; all 0 where it is not valid."""

    is_valid: Bool[np.ndarray, " rles"]
    """Whether `decode_rle` makes a mask of that size of it."""
    areas: Int64[np.ndarray, " rles"]
    boxes_xywh: Int64[np.ndarray, "rles 4"]
    """All 0 of an empty mask."""
    shared: Int64[np.ndarray, " rles"]
    """Pixels that an earlier rle of the same image has too."""


def measure_rles(
    text: UInt8[np.ndarray, " characters"],
    *,
    offsets: Integer[np.ndarray, " ends"],
    images: Integer[np.ndarray, " rles"],
    heights: Integer[np.ndarray, " rles"],
    widths: Integer[np.ndarray, " rles"],
) -> RleShapes:
    """The shapes of many rles that lie in one text, as columns of strings do in Arrow.

    Args:
        offsets: where each rle begins in the text, and where the last one ends.
        images: a number for each rle; neighbours with the same one share an image.
    """
    count = len(images)
    result = RleShapes(
        is_valid=np.zeros(count, np.bool_),
        areas=np.zeros(count, np.int64),
        boxes_xywh=np.zeros((count, 4), np.int64),
        shared=np.zeros(count, np.int64),
    )
    if count:
        columns = (offsets, images, heights, widths)
        _measure_all(
            np.ascontiguousarray(text),
            *(np.ascontiguousarray(column, dtype=np.int64) for column in columns),
            result.is_valid,
            result.areas,
            result.boxes_xywh,
            result.shared,
        )
    return result


@compiled()
@no_type_check
def _measure_all(text, offsets, images, heights, widths, is_valid, areas, boxes, shared):
    counts = np.empty(np.max(offsets[1:] - offsets[:-1]) + 1, np.int64)
    taken = np.zeros(1, np.uint64)
    taken_size = np.int64(-1)
    for rle in range(len(images)):
        height, width = heights[rle], widths[rle]
        number = unpack_counts(text, offsets[rle], offsets[rle + 1], height, width, counts)
        if number < 0:
            continue
        size = height * width
        is_valid[rle] = True
        if taken_size != size or rle == 0 or images[rle] != images[rle - 1]:
            num_words = (size >> 6) + 1
            if num_words > len(taken):
                taken = np.zeros(num_words, np.uint64)
            else:
                taken[:num_words] = 0
            taken_size = size
        areas[rle], shared[rle] = _measure(counts, number, height, taken, boxes[rle])


@compiled()
@no_type_check
def unpack_counts(text, begin, end, height, width, counts):
    """Fills in the counts; returns their number, or -1 where they are no mask of that size."""
    if height < 1 or width < 1 or height > LARGEST_MASK_PIXELS // width:
        return -1
    size = height * width
    number, total, place = 0, np.int64(0), begin
    while place < end:
        value, shift = np.int64(0), np.int64(0)
        while True:
            if place == end or shift > _LONGEST_SHIFT:
                return -1
            code = np.int64(text[place]) - FIRST_CHARACTER
            place += 1
            if code < 0 or code >= 2 * MORE:
                return -1
            value |= (code & (MORE - 1)) << shift
            shift += BITS
            if not code & MORE:
                break
        if code & SIGN:
            value -= np.int64(1) << shift
        if number > 2:
            value += counts[number - 2]
        total += value
        if value < 0 or total > size:
            return -1
        counts[number] = value
        number += 1
    return number if number and total == size else -1


@compiled()
@no_type_check
def _measure(counts, number, height, taken, box):
    """Returns the area and how many pixels were taken; fills in the box, marks its pixels taken."""
    area, shared, start = np.int64(0), np.int64(0), np.int64(0)
    left, right, top, bottom = np.int64(-1), np.int64(0), height, np.int64(0)
    for run in range(number):
        end = start + counts[run]
        if run & 1 and end > start:
            top, bottom = widen_rows(start, end, height, top, bottom)
            if left < 0:
                left = start // height
            right = (end - 1) // height
            area += end - start
            shared += _take(taken, start, end)
        start = end
    if area:
        box[0], box[1], box[2], box[3] = left, top, right - left + 1, bottom - top + 1
    return area, shared


@compiled()
@no_type_check
def widen_rows(start, end, height, top, bottom):
    """Returns the first and the last row of a mask with one run more."""
    first, last = start // height, (end - 1) // height
    if last > first:
        # It touches the bottom of one column and the top of the next.
        return np.int64(0), height - 1
    return min(top, start - first * height), max(bottom, end - 1 - last * height)


@compiled()
@no_type_check
def _take(taken, start, end):
    """Sets the bits [start, end); returns how many were set before."""
    ones, one = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1)
    first, last = start >> 6, (end - 1) >> 6
    were_set = 0
    for word in range(first, last + 1):
        mask = ones
        if word == first:
            mask = ones << np.uint64(start & 63)
        if word == last:
            mask &= ones >> np.uint64(63 - ((end - 1) & 63))
        both = taken[word] & mask
        while both:
            both &= both - one
            were_set += 1
        taken[word] |= mask
    return were_set
