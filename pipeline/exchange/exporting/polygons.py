"""Draws the outline of a mask as one polygon, for formats that have nothing else.

The polygon runs through the pixels of the border, as OpenCV's contours do: filled by
`cv2.fillPoly`, it gives back a part without holes exactly. Parts are joined by thin bridges, and
holes are filled.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from scipy import ndimage
from scipy.spatial import cKDTree

Points = Int64[np.ndarray, "points 2"]

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)
_FIRST_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""Of the upper, right, lower and left side of a pixel: where an arrow with the pixel on its right
begins, from the pixel's upper left corner, and where it leads; each as (row, column)."""
_LEFT, _STRAIGHT, _RIGHT = 3, 0, 1
"""Turns: added to the number of a side they give that of the next one."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A polygon around a mask."""

    points_xy: Points
    """Pixels of the border, in order; at least three points, which may be equal."""
    num_parts: int
    has_holes: bool


def outline(mask: Bool[np.ndarray, "height width"]) -> Outline:
    """Returns the polygon of a mask with at least one pixel; parts touch by sides or corners."""
    labels, num_parts = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    parts = []
    has_holes = False
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == number
        filled = ndimage.binary_fill_holes(part)
        has_holes = has_holes or bool(filled.sum() > part.sum())
        border = _border(filled)
        parts.append(_corners(border) + np.array([columns.start, rows.start]))
    points = _joined(sorted(parts, key=len, reverse=True)) if num_parts > 1 else parts[0]
    while len(points) < 3:
        points = np.concatenate([points, points[:1]])
    return Outline(points_xy=points, num_parts=num_parts, has_holes=has_holes)


def _border(part: Bool[np.ndarray, "height width"]) -> Points:
    """Returns the pixels of the border of a part without holes, as (x, y), clockwise.

    Walks along the sides of pixels that part inside from outside. Each side is an arrow with the
    inside on its right. Where two arrows leave a corner, the walk turns left, so that pixels that
    touch by a corner stay together.
    """
    corners_in_row = part.shape[1] + 1
    padded = np.pad(part, 1)
    inside = padded[1:-1, 1:-1]
    sides = np.stack(
        [
            inside & ~padded[:-2, 1:-1],  # above: the arrow goes right
            inside & ~padded[1:-1, 2:],  # right: down
            inside & ~padded[2:, 1:-1],  # below: left
            inside & ~padded[1:-1, :-2],  # left: up
        ],
        -1,
    )
    pixels = np.argwhere(sides)
    starts = pixels[:, :2] + _FIRST_CORNERS[pixels[:, 2]]
    corner = starts @ np.array([corners_in_row, 1])
    arrow_at = {}
    for index, (place, way) in enumerate(zip(corner.tolist(), pixels[:, 2].tolist(), strict=True)):
        arrow_at[place, way] = index
    ways = pixels[:, 2].tolist()
    ends = (starts + _STEPS[pixels[:, 2]]) @ np.array([corners_in_row, 1])
    ends_of = ends.tolist()
    walk, index = [], 0
    while True:
        walk.append(index)
        place, way = ends_of[index], ways[index]
        for turn in (_LEFT, _STRAIGHT, _RIGHT):
            following = arrow_at.get((place, (way + turn) % 4))
            if following is not None:
                break
        assert following is not None, "the sides of pixels are closed walks"
        index = following
        if index == 0:
            break
    border = pixels[walk][:, 1::-1]
    changes = np.any(border != np.roll(border, 1, axis=0), axis=1)
    return border[changes] if changes.any() else border[:1]


def _corners(border: Points) -> Points:
    """Leaves out points that lie between their neighbours on one line."""
    if len(border) < 3:
        return border
    before = border - np.roll(border, 1, axis=0)
    after = np.roll(border, -1, axis=0) - border
    is_corner = np.any(before != after, axis=1)
    return border[is_corner]


@dataclass(frozen=True)
class _Bridge:
    """The way from a corner of a part to the nearest corner of a part that was joined before."""

    part: int
    corner: int
    other_part: int
    other_corner: int


def _joined(parts: list[Points]) -> Points:
    """Joins parts to one walk, over bridges that it crosses there and back."""
    walks: dict[int, dict[int, list[Points]]] = {}
    """By part and corner, the walks around all that lies behind the bridges there."""
    for bridge in reversed(_bridges(parts)):  # what lies behind a bridge is joined before it
        behind = _walk(parts[bridge.part], walks.pop(bridge.part, {}), first=bridge.corner)
        at_corner = walks.setdefault(bridge.other_part, {})
        at_corner.setdefault(bridge.other_corner, []).append(behind)
    return _walk(parts[0], walks.get(0, {}), first=0)[:-1]


def _bridges(parts: list[Points]) -> list[_Bridge]:
    """Joins the nearest part next, beginning with the first one."""
    points = np.concatenate(parts)
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    corner = np.concatenate([np.arange(len(part)) for part in parts])
    left = owner != 0
    distances = np.full(len(points), np.inf)
    nearest = np.zeros((len(points), 2), np.int64)  # part and corner
    bridges, joined = [], 0
    while left.any():
        found, indices = cKDTree(parts[joined]).query(points[left])
        is_nearer = found < distances[left]
        changed = np.flatnonzero(left)[is_nearer]
        distances[changed] = found[is_nearer]
        nearest[changed] = np.stack([np.full(len(changed), joined), indices[is_nearer]], -1)
        best = int(np.where(left, distances, np.inf).argmin())
        joined = int(owner[best])
        other_part, other_corner = nearest[best].tolist()
        bridges.append(_Bridge(joined, int(corner[best]), other_part, other_corner))
        left &= owner != joined
    return bridges


def _walk(part: Points, behind: dict[int, list[Points]], *, first: int) -> Points:
    """Returns the walk around a part from a corner back to it, and over its bridges."""
    pieces = []
    for index in [*range(first, len(part)), *range(first)]:
        point = part[index : index + 1]
        pieces.append(point)
        for walk in behind.get(index, ()):
            pieces += [walk, point]
    return np.concatenate([*pieces, part[first : first + 1]])
