"""The pixels that masks of two sides share, from their run lengths, for many images at once.

Masks of the first side that share no pixel are painted into one map of their runs, which the runs
of the second side are then laid over: each pixel is touched once. Others are compared two by two,
none of them decoded. The comparison of two segment tables calls it.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from maskformer.cpu.compiled import compiled
from maskformer.cpu.rle_shapes import unpack_counts, widen_rows


@dataclass(frozen=True, kw_only=True)
class RleOverlaps:
    """The pairs of masks, one of each side of an image, that share a pixel."""

    is_valid: Bool[np.ndarray, " rles"]
    """Whether `decode_rle` makes a mask of that size of it; others overlap nothing."""
    areas: Int64[np.ndarray, " rles"]
    """Pixels of each mask; 0 where it is not valid."""
    first: Int64[np.ndarray, " pairs"]
    """The place of the first side's mask; ascending."""
    second: Int64[np.ndarray, " pairs"]
    """The place of the second side's mask; ascending where `first` is the same."""
    pixels: Int64[np.ndarray, " pairs"]
    """How many pixels they share; at least 1."""


def overlap_rles(
    text: UInt8[np.ndarray, " characters"],
    *,
    offsets: Integer[np.ndarray, " ends"],
    images: Integer[np.ndarray, " rles"],
    is_second: Bool[np.ndarray, " rles"],
    heights: Integer[np.ndarray, " rles"],
    widths: Integer[np.ndarray, " rles"],
    is_disjoint: bool = False,
) -> RleOverlaps:
    """Finds the overlaps of rles that lie in one text, as columns of strings do in Arrow.

    Args:
        offsets: where each rle begins in the text, and where the last one ends.
        images: a number for each rle; neighbours with the same one share an image and its size.
        is_second: the side of each rle; in an image, the first side's come first.
        is_disjoint: no two masks of the first side of an image share a pixel. That is faster; of
            masks that do, the last one has the pixel.
    """
    count = len(images)
    is_valid, areas = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    pairs = np.zeros((0, 3), np.int64)
    if count:
        columns = (offsets, images, is_second, heights, widths)
        pairs = _overlap_all(
            np.ascontiguousarray(text),
            *(np.ascontiguousarray(column, dtype=np.int64) for column in columns),
            is_disjoint,
            is_valid,
            areas,
        )
    return RleOverlaps(
        is_valid=is_valid, areas=areas, first=pairs[:, 0], second=pairs[:, 1], pixels=pairs[:, 2]
    )


@compiled()
@no_type_check
def _overlap_all(text, offsets, images, is_second, heights, widths, is_disjoint, is_valid, areas):
    pairs, num_pairs = np.empty((1024, 3), np.int64), 0
    run_at = np.zeros(1, np.int32)
    begin = 0
    while begin < len(images):
        end = begin + 1
        while end < len(images) and images[end] == images[begin]:
            end += 1
        # A run takes a character of its own, and one for the gap before it.
        runs = np.empty(((offsets[end] - offsets[begin]) // 2 + 1, 2), np.int64)
        counts = np.empty(offsets[end] - offsets[begin] + 1, np.int64)
        bounds = np.zeros(end - begin + 1, np.int64)
        rows = np.zeros((end - begin, 2), np.int64)
        for rle in range(begin, end):
            place = bounds[rle - begin]
            bounds[rle - begin + 1] = place
            height, width = heights[rle], widths[rle]
            number = unpack_counts(text, offsets[rle], offsets[rle + 1], height, width, counts)
            if number < 0:
                continue
            is_valid[rle] = True
            stop = _runs(counts, number, height, runs, place, rows[rle - begin])
            bounds[rle - begin + 1] = stop
            for run in range(place, stop):
                areas[rle] += runs[run, 1] - runs[run, 0]
        middle = begin
        while middle < end and not is_second[middle]:
            middle += 1
        num_first, num_second = middle - begin, end - middle
        shared = np.zeros((num_second, num_first), np.int64)
        if is_disjoint:
            size = np.int64(0)
            for rle in range(begin, end):
                if is_valid[rle]:
                    size = max(size, heights[rle] * widths[rle])
            if size > len(run_at):
                run_at = np.zeros(size, np.int32)
            else:
                run_at[:size] = 0
            _share_painted(runs, bounds, num_first, run_at, shared)
        else:
            for b in range(num_second):
                for a in range(num_first):
                    shared[b, a] = _shared(runs, bounds, rows, a, num_first + b)
        for a in range(num_first):
            for b in range(num_second):
                if not shared[b, a]:
                    continue
                if num_pairs == len(pairs):
                    more = np.empty((2 * num_pairs, 3), np.int64)
                    more[:num_pairs] = pairs
                    pairs = more
                pairs[num_pairs, 0] = begin + a
                pairs[num_pairs, 1] = middle + b
                pairs[num_pairs, 2] = shared[b, a]
                num_pairs += 1
        begin = end
    return pairs[:num_pairs].copy()


@compiled()
@no_type_check
def _runs(counts, number, height, runs, place, rows):
    """Fills in the runs from `place` on, and the mask's first and last row; returns the end."""
    start, top, bottom = np.int64(0), height, np.int64(-1)
    for index in range(number):
        end = start + counts[index]
        if index & 1 and end > start:
            runs[place, 0], runs[place, 1] = start, end
            place += 1
            top, bottom = widen_rows(start, end, height, top, bottom)
        start = end
    rows[0], rows[1] = top, bottom
    return place


@compiled()
@no_type_check
def _share_painted(runs, bounds, num_first, run_at, shared):
    """Paints the first side's runs, by number from 1, and counts what the second side covers."""
    owners = np.empty(bounds[num_first] + 1, np.int64)
    for mask in range(num_first):
        for run in range(bounds[mask], bounds[mask + 1]):
            run_at[runs[run, 0] : runs[run, 1]] = run + 1
            owners[run + 1] = mask
    for mask in range(len(shared)):
        own = num_first + mask
        for run in range(bounds[own], bounds[own + 1]):
            place, end = runs[run, 0], runs[run, 1]
            while place < end:
                painted = run_at[place]
                if painted == 0:
                    place += 1
                    continue
                # To the end of the painted run; where masks do overlap, another may lie on it.
                stop = min(end, runs[painted - 1, 1])
                shared[mask, owners[painted]] += stop - place
                place = stop


@compiled()
@no_type_check
def _shared(runs, bounds, rows, a, b):
    """Counts the pixels that two masks share."""
    one, one_end, two, two_end = bounds[a], bounds[a + 1], bounds[b], bounds[b + 1]
    shared = np.int64(0)
    if one == one_end or two == two_end:
        return shared
    # Their boxes do not meet: neither by columns nor by rows.
    if runs[one_end - 1, 1] <= runs[two, 0] or runs[two_end - 1, 1] <= runs[one, 0]:
        return shared
    if rows[a, 1] < rows[b, 0] or rows[b, 1] < rows[a, 0]:
        return shared
    while one < one_end and two < two_end:
        low, high = max(runs[one, 0], runs[two, 0]), min(runs[one, 1], runs[two, 1])
        if high > low:
            shared += high - low
        if runs[one, 1] < runs[two, 1]:
            one += 1
        else:
            two += 1
    return shared
