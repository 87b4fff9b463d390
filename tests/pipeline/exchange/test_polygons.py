"""The outline of a mask as one polygon: drawn anew, it covers the mask, exactly where it can."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.exchange.exporting.polygons import outline

EIGHT = np.ones((3, 3), bool)


def filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fills as a reader does: the inside by even and odd, and every pixel of the line itself."""
    picture = Image.new("1", shape[::-1])
    line = [tuple(point) for point in points.tolist()]
    ImageDraw.Draw(picture).polygon(line, fill=1, outline=1)
    return np.asarray(picture)


def is_simple(mask: np.ndarray) -> bool:
    filled = ndimage.binary_fill_holes(mask)
    return ndimage.label(mask, EIGHT)[1] == 1 and bool((filled == mask).all())


@settings(max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_polygon_runs_through_the_mask_around_all_of_it(mask: np.ndarray) -> None:
    if not mask.any():
        return
    found = outline(mask)
    points = found.points_xy
    assert len(points) >= 3
    rows, columns = np.nonzero(mask)
    assert mask[points[:, 1], points[:, 0]].all(), "corners are pixels of the mask"
    assert (points.min(0) == [columns.min(), rows.min()]).all()
    assert (points.max(0) == [columns.max(), rows.max()]).all()
    assert found.num_parts == ndimage.label(mask, EIGHT)[1]
    assert found.has_holes == _has_holes(mask)


def _has_holes(mask: np.ndarray) -> bool:
    """A hole of one part; another part may lie in it."""
    labels, count = ndimage.label(mask, EIGHT)
    parts = [labels == number for number in range(1, count + 1)]
    return any((ndimage.binary_fill_holes(part) != part).any() for part in parts)


def test_shapes_of_one_part_come_back_exactly() -> None:
    random = np.random.default_rng(5)
    exact = 0
    for _ in range(300):
        noise = ndimage.gaussian_filter(random.normal(size=(24, 30)), 2.5)
        labels, count = ndimage.label(noise > 0.02, EIGHT)
        for number in range(1, count + 1):
            mask = ndimage.binary_fill_holes(labels == number)
            if is_simple(mask) and mask.sum() > 4:
                found = filled(outline(mask).points_xy, mask.shape)
                assert (found == mask).all()
                exact += 1
    assert exact > 300


def test_a_bridge_joins_parts_at_their_nearest_corners() -> None:
    mask = np.zeros((10, 20), bool)
    mask[1:9, 1:6] = True
    mask[4:7, 9:12] = True
    found = outline(mask)
    assert found.num_parts == 2
    picture = filled(found.points_xy, mask.shape)
    assert picture[mask].all()
    assert (picture & ~mask).sum() <= 8


def test_a_pixel_and_a_line_have_three_points() -> None:
    for shape in ((1, 1), (1, 5), (4, 1)):
        assert len(outline(np.ones(shape, bool)).points_xy) >= 3
