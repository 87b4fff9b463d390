"""The shapes of segments: a map of segment ids to COCO's compressed masks, areas and boxes.

Takes the id maps of `postprocessing/`; the table writer stores what comes out. One pass over the
map finds the runs of every segment. The strings are byte for byte those of pycocotools; `rle.py`
says how they are made and reads them.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, Integer, UInt8

from maskformer.cpu.compiled import compiled
from maskformer.run_lengths.rle import BITS, FIRST_CHARACTER, MORE, SIGN

# Up to this many more ids than runs, a table of ids is faster than sorting.
_FEW_IDS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SegmentShapes:
    """The shapes of an id map's segments, one entry each, in ascending order of their ids."""

    ids: Int64[np.ndarray, " segments"]
    areas: Int64[np.ndarray, " segments"]
    boxes_xywh: Int32[np.ndarray, "segments 4"]
    rles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PackedShapes:
    """The shapes of segments as arrays, one entry each; the strings stand in one text."""

    areas: Int64[np.ndarray, " segments"]
    boxes_xywh: Int32[np.ndarray, "segments 4"]
    rle_text: UInt8[np.ndarray, " characters"]
    rle_begins: Int64[np.ndarray, " segments_and_end"]
    """Where each string begins, and the end of the last one."""


def encode_segments(id_map: Integer[np.ndarray, "height width"]) -> SegmentShapes:
    """The shape of every segment in the map. Ids of 0 and below are void and have none."""
    ids, shapes = pack_segments(id_map)
    string = shapes.rle_text.tobytes().decode("ascii")
    return SegmentShapes(
        ids=ids,
        areas=shapes.areas,
        boxes_xywh=shapes.boxes_xywh,
        rles=tuple(string[begin:end] for begin, end in pairwise(shapes.rle_begins.tolist())),
    )


def pack_segments(
    id_map: Integer[np.ndarray, "height width"],
) -> tuple[Int64[np.ndarray, " segments"], PackedShapes]:
    """Returns the ids of the map's segments in ascending order, and their shapes."""
    if id_map.size == 0:
        raise ValueError(f"an id map has at least one pixel, got shape {id_map.shape}")
    # One type, so that the loops below are compiled once; ids are small.
    id_map = id_map.astype(np.int32, copy=False)
    num_runs = _count_runs(id_map)
    starts, run_ids = np.empty(num_runs + 1, np.int64), np.empty(num_runs, np.int32)
    _find_runs(id_map, starts, run_ids)
    ids, numbers = _numbered(run_ids)
    areas, boxes, first_count = _measure(starts, numbers, len(id_map), len(ids))
    counts = _fill_counts(starts, numbers, first_count)
    text, begins = _pack(counts, first_count)
    return ids, PackedShapes(areas=areas, boxes_xywh=boxes, rle_text=text, rle_begins=begins)


def pack_runs(
    starts: Int32[np.ndarray, " runs"],
    run_ids: Int16[np.ndarray, " runs"],
    *,
    num_runs: Int32[np.ndarray, " images"],
    heights: Int64[np.ndarray, " images"],
    pixels: Int64[np.ndarray, " images"],
    num_segments: Int64[np.ndarray, " images"],
) -> PackedShapes:
    """Returns the shapes of all segments of some images, of the runs that are known of each.

    Holds the interpreter's lock before and after, not in between.

    Args:
        starts: among the pixels of a run's image, column by column; ascending in each image.
        run_ids: from 1 to the image's number of segments, each of which occurs; 0 is void.
    """
    return PackedShapes(
        **dict(
            zip(
                ("areas", "boxes_xywh", "rle_text", "rle_begins"),
                _pack_images(starts, run_ids, num_runs, heights, pixels, num_segments),
                strict=True,
            )
        )
    )


def encode_mask(mask: Bool[np.ndarray, "height width"]) -> str:
    """The compressed counts of one mask, which may be empty."""
    shapes = encode_segments(mask.view(np.uint8))
    if shapes.rles:
        return shapes.rles[0]
    text, _ = _pack(np.array([mask.size]), np.array([0, 1]))
    return text.tobytes().decode("ascii")


def _numbered(
    run_ids: Int32[np.ndarray, " runs"],
) -> tuple[Int64[np.ndarray, " segments"], Int64[np.ndarray, " runs"]]:
    """The ids in ascending order, and each run's place among them, below 0 for void."""
    highest = int(run_ids.max())
    if highest >= len(run_ids) + _FEW_IDS:
        ids, numbers = np.unique(run_ids, return_inverse=True)
        num_void = np.searchsorted(ids, 0, side="right")
        return ids[num_void:].astype(np.int64), numbers - num_void
    run_ids = np.maximum(run_ids, 0)
    occurs = np.zeros(max(highest, 0) + 1, np.bool_)
    occurs[run_ids] = True
    occurs[0] = False
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[run_ids]


@compiled()
@no_type_check
def _count_runs(id_map):
    """The number of stretches of one id in the column-major map."""
    height, width = id_map.shape
    changes = 0
    for y in range(1, height):
        for x in range(width):
            changes += np.int32(id_map[y, x] != id_map[y - 1, x])
    for x in range(1, width):
        changes += np.int32(id_map[0, x] != id_map[height - 1, x - 1])
    return changes + 1


@compiled()
@no_type_check
def _find_runs(id_map, starts, run_ids):
    """Fills in where each run starts, the end of the last one, and the id of each."""
    height, width = id_map.shape
    run, last = -1, id_map[0, 0]
    for x in range(width):
        for y in range(height):
            here = id_map[y, x]
            if run < 0 or here != last:
                run += 1
                starts[run], run_ids[run], last = x * height + y, here, here
    starts[run + 1] = height * width


@compiled()
@no_type_check
def _measure(starts, numbers, height, num_segments):
    """Area, box as (x, y, width, height) and first count of each segment among all counts."""
    areas = np.zeros(num_segments, np.int64)
    boxes = np.empty((num_segments, 4), np.int32)
    first_count = np.zeros(num_segments + 1, np.int64)
    last_end = np.zeros(num_segments, np.int64)
    for run in range(len(numbers)):
        number, start, end = numbers[run], starts[run], starts[run + 1]
        if number < 0:
            continue
        left, right = start // height, (end - 1) // height
        top, bottom = start - left * height, end - 1 - right * height
        if right > left:
            # It touches the bottom of one column and the top of the next.
            top, bottom = 0, height - 1
        box = boxes[number]
        if areas[number]:
            # Corners until the end; columns ascend, so that the first run has the leftmost.
            box[1], box[3] = min(box[1], top), max(box[3], bottom)
        else:
            box[0], box[1], box[3] = left, top, bottom
        box[2] = right
        areas[number] += end - start
        first_count[number + 1] += 2
        last_end[number] = end
    for number in range(num_segments):
        boxes[number, 2] += 1 - boxes[number, 0]
        boxes[number, 3] += 1 - boxes[number, 1]
        first_count[number + 1] += first_count[number] + (last_end[number] < starts[-1])
    return areas, boxes, first_count


@compiled()
@no_type_check
def _fill_counts(starts, numbers, first_count):
    """The run lengths of every segment, of zeros and ones in turn, one segment after the other."""
    counts = np.empty(first_count[-1], np.int64)
    place = first_count[:-1].copy()
    last_end = np.zeros(len(place), np.int64)
    for run in range(len(numbers)):
        number = numbers[run]
        if number >= 0:
            counts[place[number]] = starts[run] - last_end[number]
            counts[place[number] + 1] = starts[run + 1] - starts[run]
            last_end[number] = starts[run + 1]
            place[number] += 2
    for number in range(len(place)):
        if place[number] < first_count[number + 1]:
            counts[place[number]] = starts[-1] - last_end[number]
    return counts


@compiled()
@no_type_check
def _pack(counts, first_count):
    """The counts as characters, and where each segment's begin and the last's end."""
    # A count is below 2**62, thirteen times five bits with a sign.
    longest = 1
    while (max(counts.max(), 1) if len(counts) else 1) >> (BITS * longest - 1):
        longest += 1
    text = np.empty(longest * len(counts), np.uint8)
    begins = np.zeros(len(first_count), np.int64)
    length = 0
    for segment in range(len(first_count) - 1):
        first = first_count[segment]
        for place in range(first, first_count[segment + 1]):
            value = counts[place]
            if place > first + 2:
                value -= counts[place - 2]
            more = True
            while more:
                bits = value & (MORE - 1)
                value >>= BITS
                # Done when what is left repeats the sign of what was written.
                more = value != (-1 if bits & SIGN else 0)
                text[length] = bits + MORE * more + FIRST_CHARACTER
                length += 1
        begins[segment + 1] = length
    return text[:length], begins


@compiled()
@no_type_check
def _pack_images(starts, run_ids, num_runs, heights, pixels, num_segments):
    """`_measure`, `_fill_counts` and `_pack` for one image after the other."""
    total = num_segments.sum()
    areas = np.empty(total, np.int64)
    boxes = np.empty((total, 4), np.int32)
    begins = np.zeros(total + 1, np.int64)
    # A count takes at most eleven characters; most take one or two.
    text = np.empty(4 * len(starts) + 64, np.uint8)
    run, segment, length = 0, 0, 0
    for image in range(len(num_runs)):
        end, count = run + num_runs[image], num_segments[image]
        edges = np.empty(num_runs[image] + 1, np.int64)
        edges[:-1] = starts[run:end]
        edges[-1] = pixels[image]
        numbers = run_ids[run:end].astype(np.int64) - 1
        its_areas, its_boxes, first_count = _measure(edges, numbers, heights[image], count)
        its_text, its_begins = _pack(_fill_counts(edges, numbers, first_count), first_count)
        areas[segment : segment + count] = its_areas
        boxes[segment : segment + count] = its_boxes
        begins[segment + 1 : segment + count + 1] = its_begins[1:] + length
        if length + len(its_text) > len(text):
            longer = np.empty(2 * (length + len(its_text)), np.uint8)
            longer[:length] = text[:length]
            text = longer
        text[length : length + len(its_text)] = its_text
        run, segment, length = end, segment + count, length + len(its_text)
    return areas, boxes, text[:length].copy(), begins
