"""Converts COCO's segmentations, as JSON text, to run lengths.

Every number of polygons and run lengths is checked before pycocotools gets it: its C code reads
outside of its memory for numbers that are not finite, and takes all memory for points far outside
of the image.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Integer

from maskformer import counts_of
from pipeline.datasets.coco_json import Path, path_and_rule

LONGEST_OUTLINE = 2**22
"""The longest polygon in pixels; pycocotools takes 100 bytes for each."""

_SHAPES = 'must be polygons [[x, y, x, y, x, y, ...], ...] or run lengths {"size", "counts"}'


class _Runs(msgspec.Struct, frozen=True, gc=False):
    size: list[int]
    counts: list[int] | str


class SegmentationError(ValueError):
    """A segmentation gives no mask.

    Args:
        path: to the wrong value, in the segmentation.
        rule: the rule that the value breaks.
    """

    def __init__(self, path: Path, rule: str) -> None:
        super().__init__(rule)
        self.path = path
        self.rule = rule


_decoder = msgspec.json.Decoder(list[list[float] | float] | _Runs)


def check_segmentation(text: bytes, *, height: int, width: int) -> None:
    """Checks every number; draws the mask only where it may hold no pixel.

    Raises:
        SegmentationError: it makes no mask of the image.
    """
    shape = _decoded(text)
    if isinstance(shape, _Runs):
        # Every other run is inside, from the second on.
        if not _counts(shape, height=height, width=width)[1::2].any():
            raise SegmentationError(("counts",), "must have a pixel")
        return
    polygons = _polygons(shape, height=height, width=width)
    if all(
        each.right <= 1 and each.bottom <= 1 and each.left >= 0 <= each.top for each in polygons
    ):
        raise SegmentationError((), "must be in pixels, not in shares of the image")
    if any(each.is_surely_seen(height=height, width=width) for each in polygons):
        return
    if not _mask_area(polygons, height=height, width=width):
        raise SegmentationError((), "must enclose a pixel of the image")


def segmentation_rle(text: bytes, *, height: int, width: int) -> str:
    """Returns COCO's compressed counts of the whole mask.

    Raises:
        SegmentationError: it makes no mask of the image.
    """
    from pycocotools import mask as coco

    shape = _decoded(text)
    if not isinstance(shape, _Runs):
        rles = _rles(_polygons(shape, height=height, width=width), height=height, width=width)
        return coco.merge(rles)["counts"].decode("ascii")
    counts = _counts(shape, height=height, width=width)
    if isinstance(shape.counts, str):
        return shape.counts
    runs = {"size": [height, width], "counts": counts.tolist()}
    return coco.frPyObjects(runs, height, width)["counts"].decode("ascii")


def _decoded(text: bytes) -> "list[list[float] | float] | _Runs":
    try:
        shape = _decoder.decode(text)
    except msgspec.ValidationError as error:
        path, rule = path_and_rule(error)
        is_other = not path and not rule.startswith("must have")
        raise SegmentationError(path, _SHAPES if is_other else rule) from error
    except (ValueError, RecursionError) as error:
        raise SegmentationError((), _SHAPES) from error
    return shape


@dataclass(frozen=True, slots=True)
class _Polygon:
    points: list[float]
    xs: list[float]
    ys: list[float]
    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def of(cls, points: list[float]) -> "_Polygon":
        xs, ys = points[0::2], points[1::2]
        return cls(points, xs, ys, min(xs), max(xs), min(ys), max(ys))

    @property
    def span(self) -> float:
        return max(self.right - self.left, self.bottom - self.top)

    @property
    def outline(self) -> float:
        """Returns its length as pycocotools walks it: a diagonal step counts as a straight one."""
        steps = zip(_steps(self.xs), _steps(self.ys), strict=True)
        return sum(max(abs(x), abs(y)) for x, y in steps)

    def is_surely_seen(self, *, height: int, width: int) -> bool:
        """True if it lies in the image and is thick enough to hold a pixel for certain."""
        if self.left < 0 or self.top < 0 or self.right > width or self.bottom > height:
            return False
        # A closed polygon repeats one point; one that goes round twice may enclose nothing.
        if len(set(zip(self.xs, self.ys, strict=True))) < len(self.xs) - 1:
            return False
        sums = map(operator.add, self.xs, [*self.xs[1:], self.xs[0]])
        area = abs(sum(map(operator.mul, sums, _steps(self.ys)))) / 2
        return area > self.right - self.left + self.bottom - self.top + 4


def _steps(values: Sequence[float]) -> list[float]:
    return list(map(operator.sub, [*values[1:], values[0]], values))


def _polygons(parts: Sequence[list[float] | float], *, height: int, width: int) -> list[_Polygon]:
    """Returns the polygons of three points or more, as COCO's tools and detectron2 do."""
    if not parts:
        raise SegmentationError((), _SHAPES)
    polygons = []
    for number, points in enumerate(parts):
        if not isinstance(points, list):
            what = "a box is no outline" if len(parts) == 4 else "each in a list of its own"
            raise SegmentationError((), f"{_SHAPES}: {what}")
        if len(points) % 2:
            raise SegmentationError((number,), "must have a y for each x")
        if len(points) >= 6:
            polygons.append(_Polygon.of(points))
            _check_bounds(polygons[-1], number=number, height=height, width=width)
    if not polygons:
        is_points = len(parts) > 2 and all(isinstance(p, list) and len(p) == 2 for p in parts)
        what = "all points of a polygon in one list" if is_points else "of three points or more"
        raise SegmentationError((), f"{_SHAPES}: {what}")
    return polygons


def _check_bounds(polygon: _Polygon, *, number: int, height: int, width: int) -> None:
    """Raises SegmentationError for a polygon that is too long or reaches far out of the image."""
    for low, high, side, name, first in (
        (polygon.left, polygon.right, width, "width", 0),
        (polygon.top, polygon.bottom, height, "height", 1),
    ):
        if low < -side or high > 2 * side:
            values = polygon.points[first::2]
            index = next(i for i, value in enumerate(values) if not -side <= value <= 2 * side)
            raise SegmentationError(
                (number, 2 * index + first),
                f"must lie in the image or at most its {name} of {side} pixels beside it",
            )
    is_long = polygon.span * len(polygon.xs) > LONGEST_OUTLINE
    if is_long and polygon.outline > LONGEST_OUTLINE:
        raise SegmentationError(
            (number,), f"must have an outline of at most {LONGEST_OUTLINE} pixels"
        )


def _mask_area(polygons: Sequence[_Polygon], *, height: int, width: int) -> int:
    from pycocotools import mask as coco

    return int(coco.area(_rles(polygons, height=height, width=width)).max())


def _rles(polygons: Sequence[_Polygon], *, height: int, width: int) -> list[dict[str, Any]]:
    """Returns pycocotools' run lengths of polygons whose numbers were checked."""
    from pycocotools import mask as coco

    return coco.frPyObjects([each.points for each in polygons], height, width)


def _counts(runs: _Runs, *, height: int, width: int) -> Integer[np.ndarray, " counts"]:
    if runs.size != [height, width]:
        raise SegmentationError(
            ("size",), f"must be [{height}, {width}], the height and width of the image"
        )
    if isinstance(runs.counts, str):
        try:
            return counts_of(runs.counts, height=height, width=width)
        except ValueError as error:
            raise SegmentationError(
                ("counts",), f"must be COCO's compressed counts of {height} x {width} pixels"
            ) from error
    pixels, total = height * width, 0
    for number, count in enumerate(runs.counts):
        if not 0 <= count <= pixels:
            raise SegmentationError(("counts", number), f"must be in 0 to {pixels}, pixels")
        total += count
    if total != pixels or len(runs.counts) > 2 * pixels:
        raise SegmentationError(
            ("counts",), f"must add up to {height} x {width} = {pixels} pixels (they are {total})"
        )
    return np.array(runs.counts, np.int64)
