"""Stitching: segments of overlapping windows to the segments of the image.

Takes each window's segmentation from `windows.py`; gives one for the image. The rule: segments of
one label in two windows are one if, on the pixels that both windows see, their intersection is more
than half of their union; and so are those that a chain of such pairs connects. Labels that are
fused make one segment of the image, wherever they lie. A pixel belongs to the window whose middle
is nearest, and where that one has nothing there, to the first other one that has.

The map of the image is made in place. Beside it, only the maps of windows that later ones overlap
are kept.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32

from maskformer.bilinear import bands
from maskformer.inference.spans import Span
from maskformer.postprocessing.geometry import HeightWidth
from maskformer.postprocessing.segments import Segment, Segmentation

_SAME = 0.5
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A window's map; its ids are those of the image when `offset` is added."""

    id_map: Int32[np.ndarray, "height width"]
    offset: int
    labels: tuple[int, ...]
    rows: Span
    columns: Span

    def part(self, rows: slice, columns: slice) -> Int32[np.ndarray, "_ _"]:
        """Cuts out some rows and columns of the image."""
        top, left = self.rows.start, self.columns.start
        return self.id_map[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]


class Stitcher:
    """Takes windows row by row, from the top; each row from the left."""

    def __init__(self, image_size: HeightWidth, *, label_ids_to_fuse: Collection[int]) -> None:
        self._map = np.zeros(image_size, np.int32)
        self._label_ids_to_fuse = label_ids_to_fuse
        self._segments: list[Segment] = []
        self._parents: list[int] = [0]
        self._first_of_label: dict[int, int] = {}
        self._within_reach: list[_Piece] = []

    def add(self, segmentation: Segmentation, *, rows: Span, columns: Span) -> None:
        """The next window, whose segments have the ids 1, 2, and so on."""
        piece = _Piece(
            id_map=segmentation.segmentation.numpy(),
            offset=len(self._segments),
            labels=tuple(segment.label_id for segment in segmentation.segments),
            rows=rows,
            columns=columns,
        )
        self._segments += segmentation.segments
        for segment_id, label in enumerate(piece.labels, start=piece.offset + 1):
            self._parents.append(segment_id)
            if label in self._label_ids_to_fuse:
                self._join(self._first_of_label.setdefault(label, segment_id), segment_id)
        self._within_reach = [other for other in self._within_reach if other.rows.stop > rows.start]
        for other in self._within_reach:
            for theirs, ours in _same(other, piece):
                self._join(other.offset + theirs, piece.offset + ours)
        self._within_reach.append(piece)
        self._paint(piece)

    def joined(self) -> Segmentation:
        """The image's segments in the order of their first window, without those of no pixel."""
        areas = np.zeros(len(self._parents), np.int64)
        for part in self._parts():
            areas += np.bincount(part.ravel(), minlength=len(areas))
        members: dict[int, list[int]] = defaultdict(list)
        for segment_id in range(1, len(areas)):
            if areas[segment_id]:
                members[self._root(segment_id)].append(segment_id)
        new_ids = np.zeros(len(areas), np.int32)
        segments = []
        for new_id, root in enumerate(sorted(members), start=1):
            new_ids[members[root]] = new_id
            segments.append(self._segment(new_id, members[root], areas[members[root]]))
        for part in self._parts():
            part[:] = new_ids[part]
        return Segmentation(segmentation=torch.from_numpy(self._map), segments=tuple(segments))

    def _segment(self, new_id: int, members: list[int], areas: np.ndarray) -> Segment:
        parts = [self._segments[member - 1] for member in members]
        # A single part keeps its score exactly; an average would round it.
        score = parts[0].score
        if len(parts) > 1:
            score = float(np.average([part.score for part in parts], weights=areas))
        label = parts[0].label_id
        return Segment(
            id=new_id, label_id=label, score=score, was_fused=label in self._label_ids_to_fuse
        )

    def _paint(self, piece: _Piece) -> None:
        """Put a window's segments where nothing is yet, and in its core over what is."""
        ids = np.where(piece.id_map, piece.id_map + np.int32(piece.offset), 0).astype(np.int32)
        rows, columns = piece.rows, piece.columns
        here = self._map[rows.start : rows.stop, columns.start : columns.stop]
        np.copyto(here, ids, where=here == 0)
        core = tuple(
            slice(span.core.start - span.start, span.core.stop - span.start)
            for span in (rows, columns)
        )
        np.copyto(here[core], ids[core], where=ids[core] != 0)

    def _parts(self) -> list[Int32[np.ndarray, "_ _"]]:
        height, width = self._map.shape
        # Counting turns them into 8 bytes each.
        steps = bands(height, bytes_per_row=8 * width, byte_budget=_BYTES_AT_ONCE)
        return [self._map[step] for step in steps]

    def _root(self, segment_id: int) -> int:
        while self._parents[segment_id] != segment_id:
            self._parents[segment_id] = self._parents[self._parents[segment_id]]
            segment_id = self._parents[segment_id]
        return segment_id

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._parents[second] = first


def _same(one: _Piece, other: _Piece) -> list[tuple[int, int]]:
    """The pairs of segments of two windows that are one, by their ids in each."""
    rows, columns = (
        slice(max(first.start, second.start), min(first.stop, second.stop))
        for first, second in ((one.rows, other.rows), (one.columns, other.columns))
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return []
    shape = len(one.labels) + 1, len(other.labels) + 1
    pairs = one.part(rows, columns).astype(np.intp) * shape[1] + other.part(rows, columns)
    shared = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    both = shared[1:, 1:]
    either = shared.sum(1)[1:, None] + shared.sum(0)[1:] - both
    is_same = (both > _SAME * either) & (np.array(one.labels)[:, None] == np.array(other.labels))
    return [
        (int(first) + 1, int(second) + 1) for first, second in zip(*is_same.nonzero(), strict=True)
    ]
