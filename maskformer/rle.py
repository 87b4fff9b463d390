"""Run-length encoding: a map of segment ids to COCO's compressed masks, areas and boxes, and back.

Takes the id maps of `postprocess.py`; the table writer stores what comes out. COCO flattens a mask
column by column, counts the lengths of its runs of zeros and ones in turn, beginning with zeros,
writes each count from the fourth on as the difference to the one before the last, and packs that
into characters of five bits. Here one pass over the map finds the runs of every segment, and all
counts are packed at once. The strings are byte for byte those of pycocotools.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

_BITS = 5
_SIGN = 1 << (_BITS - 1)
_MORE = 1 << _BITS
_FIRST_CHARACTER = 48


@dataclass(frozen=True, kw_only=True)
class SegmentShapes:
    """The shapes of an id map's segments, one entry each, in ascending order of their ids."""

    ids: Int64[np.ndarray, " segments"]
    areas: Int64[np.ndarray, " segments"]
    boxes_xywh: Int32[np.ndarray, "segments 4"]
    rles: tuple[str, ...]


def encode_segments(id_map: Integer[np.ndarray, "height width"]) -> SegmentShapes:
    """The shape of every segment in the map. Ids of 0 and below are void and have none."""
    if id_map.size == 0:
        raise ValueError(f"an id map has at least one pixel, got shape {id_map.shape}")
    runs = _segment_runs(id_map)
    first_run = np.flatnonzero(np.diff(runs.ids, prepend=0))
    if not len(first_run):
        return SegmentShapes(
            ids=np.zeros(0, np.int64),
            areas=np.zeros(0, np.int64),
            boxes_xywh=np.zeros((0, 4), np.int32),
            rles=(),
        )
    return SegmentShapes(
        ids=runs.ids[first_run].astype(np.int64),
        areas=np.add.reduceat(runs.ends - runs.starts, first_run),
        boxes_xywh=_boxes(runs, first_run=first_run, height=id_map.shape[0]),
        rles=_pack(*_counts(runs, first_run=first_run, num_pixels=id_map.size)),
    )


def encode_mask(mask: Bool[np.ndarray, "height width"]) -> str:
    """The compressed counts of one mask, which may be empty."""
    shapes = encode_segments(mask.view(np.uint8))
    if shapes.rles:
        return shapes.rles[0]
    (rle,) = _pack(np.array([mask.size]), np.array([0]))
    return rle


def decode_rle(rle: str, *, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask that `rle` encodes, of the size that it was encoded with."""
    counts = _unpack(rle)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(
            f"the counts of an rle must add up to its mask's pixels, got {int(counts.sum())} for "
            f"{height}x{width} = {height * width}; height and width are those of the full image"
        )
    is_inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_inside, counts).reshape(width, height).T


@dataclass(frozen=True)
class _Runs:
    """Stretches of one id in the column-major map, sorted by id, then by place; void left out."""

    ids: Integer[np.ndarray, " runs"]
    starts: Int64[np.ndarray, " runs"]
    ends: Int64[np.ndarray, " runs"]


def _segment_runs(id_map: Integer[np.ndarray, "height width"]) -> _Runs:
    flat = _narrowed(id_map).T.ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], starts])
    ends = np.append(starts[1:], flat.size)
    ids = flat[starts]
    # Stable, so that a segment's runs stay in their order; on narrow ids this is a radix sort.
    order = np.argsort(ids, kind="stable")
    order = order[np.searchsorted(ids[order], 0, side="right") :]
    return _Runs(ids=ids[order], starts=starts[order], ends=ends[order])


def _narrowed(id_map: Integer[np.ndarray, "height width"]) -> Integer[np.ndarray, "height width"]:
    """The same ids in the narrowest type, void as 0: turning the map costs by the byte."""
    highest = int(id_map.max())
    if highest < 1 << 16:
        if np.issubdtype(id_map.dtype, np.signedinteger) and int(id_map.min()) < 0:
            id_map = np.maximum(id_map, 0)
        return id_map.astype(np.uint8 if highest < 1 << 8 else np.uint16, copy=False)
    return id_map


def _boxes(
    runs: _Runs, *, first_run: Int64[np.ndarray, " segments"], height: int
) -> Int32[np.ndarray, "segments 4"]:
    """The smallest box around each segment as (x, y, width, height), in whole pixels."""
    lasts = runs.ends - 1
    left, right = runs.starts // height, lasts // height
    top, bottom = runs.starts - left * height, lasts - right * height
    # A run that goes on in the next column touches the bottom of one and the top of the other.
    crosses = right > left
    top = np.where(crosses, 0, top)
    bottom = np.where(crosses, height - 1, bottom)
    x = np.minimum.reduceat(left, first_run)
    y = np.minimum.reduceat(top, first_run)
    x_last = np.maximum.reduceat(right, first_run)
    y_last = np.maximum.reduceat(bottom, first_run)
    return np.stack([x, y, x_last - x + 1, y_last - y + 1], axis=1).astype(np.int32)


def _counts(
    runs: _Runs, *, first_run: Int64[np.ndarray, " segments"], num_pixels: int
) -> tuple[Int64[np.ndarray, " counts"], Int64[np.ndarray, " segments"]]:
    """Every segment's run lengths in one array, and where each segment's begin in it."""
    previous_ends = np.concatenate([[0], runs.ends[:-1]])
    previous_ends[first_run] = 0
    pairs = np.stack([runs.starts - previous_ends, runs.ends - runs.starts], axis=1).ravel()
    after_last_run = np.append(first_run[1:], len(runs.ids))
    rest = num_pixels - runs.ends[after_last_run - 1]
    has_rest = rest > 0
    counts = np.insert(pairs, 2 * after_last_run[has_rest], rest[has_rest])
    firsts = 2 * first_run + np.cumsum(has_rest) - has_rest
    return counts, firsts


def _pack(
    counts: Int64[np.ndarray, " counts"], firsts: Int64[np.ndarray, " segments"]
) -> tuple[str, ...]:
    """The counts as text, one string per segment; segment i's counts begin at firsts[i]."""
    values = counts.copy()
    values[2:] -= counts[:-2]
    # A segment's first three counts are written as they are.
    for place in range(3):
        plain = firsts + place
        plain = plain[plain < np.append(firsts[1:], len(counts))]
        values[plain] = counts[plain]

    # Five bits with sign hold -16 to 15, ten hold -512 to 511, and so on.
    magnitudes = values ^ (values >> 63)
    lengths = np.ones(len(values), np.int64)
    limit, highest = _SIGN, int(magnitudes.max())
    while limit <= highest:
        lengths += magnitudes >= limit
        limit <<= _BITS

    ends = np.cumsum(lengths)
    places = ends - lengths
    text = np.empty(ends[-1], np.uint8)
    while len(values):
        has_more = lengths > 1
        bits = (values & (_MORE - 1)) + _FIRST_CHARACTER
        text[places] = bits + _MORE * has_more
        values, lengths, places = (
            values[has_more] >> _BITS,
            lengths[has_more] - 1,
            places[has_more] + 1,
        )
    string = text.tobytes().decode("ascii")
    begins = [0, *ends[firsts[1:] - 1].tolist(), len(string)]
    return tuple(string[begin:end] for begin, end in pairwise(begins))


def _unpack(rle: str) -> Int64[np.ndarray, " counts"]:
    codes = np.frombuffer(rle.encode("ascii", errors="replace"), np.uint8).astype(np.int64)
    codes -= _FIRST_CHARACTER
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * _MORE or codes[-1] & _MORE:
        raise ValueError(f"an rle is COCO's compressed counts, got {rle[:40]!r}")
    is_last = (codes & _MORE) == 0
    firsts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    places = np.arange(len(codes)) - np.repeat(firsts, np.diff(np.append(firsts, len(codes))))
    values = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * places), firsts)
    num_bits = _BITS * (places[is_last] + 1)
    is_negative = (codes[is_last] & _SIGN) != 0
    values = np.where(is_negative, values - (1 << num_bits), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
