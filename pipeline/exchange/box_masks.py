"""Decodes the part of a mask that lies in its box, so that the cost follows the segment's size."""

import numpy as np
from jaxtyping import Bool, Int64

from maskformer import counts_of


def box_mask(
    rle: str, *, height: int, width: int, box_xywh: tuple[int, int, int, int]
) -> Bool[np.ndarray, "box_height box_width"]:
    """Returns the mask of a segment inside its box.

    Args:
        rle: COCO's compressed counts of the image's full size.
        box_xywh: left, top, width and height in pixels, inside the image.

    Raises:
        ValueError: `rle` is no mask of that size, or the box leaves the image.
    """
    left, top, box_width, box_height = box_xywh
    if not (0 <= left < left + box_width <= width and 0 <= top < top + box_height <= height):
        raise ValueError(f"a box must lie in the image of {width}x{height}, got {box_xywh}")
    first, last = left * height, (left + box_width) * height
    edges = np.cumsum(counts_of(rle, height=height, width=width)).clip(first, last)
    counts = np.diff(edges, prepend=first)
    columns = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(box_width, height)
    return columns[:, top : top + box_height].T


def row_runs(
    mask: Bool[np.ndarray, "box_height box_width"], *, left: int, top: int, width: int
) -> Int64[np.ndarray, "runs 2"]:
    """Returns where each run of a mask in a box begins and ends, row by row of the full image.

    Pixels are counted from the image's upper left corner along its rows; runs ascend, and two never
    touch.
    """
    box_height, box_width = mask.shape
    if box_width == width:  # runs go on from one row to the next
        edges = np.flatnonzero(np.diff(mask.ravel(), prepend=False, append=False))
        return edges.reshape(-1, 2).astype(np.int64) + top * width
    # A column of void behind each row ends its runs there.
    rows = np.zeros((box_height, box_width + 1), np.bool_)
    rows[:, :-1] = mask
    edges = np.flatnonzero(np.diff(rows.ravel(), prepend=False))
    y, x = np.divmod(edges, box_width + 1)
    return ((top + y) * width + left + x).reshape(-1, 2)
