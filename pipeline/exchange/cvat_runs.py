"""Encodes and decodes the masks of CVAT: run lengths row by row inside a box, zeros first.

An XML of CVAT 1.1 holds them as `<mask rle="2, 5, ..." left="3" top="7" width="40" height="20">`.
They are not COCO's run lengths, which go column by column over the full image.
"""

import numpy as np
from jaxtyping import Bool


def encode_cvat_runs(mask: Bool[np.ndarray, "box_height box_width"]) -> list[int]:
    """Returns the run lengths of a mask in its box.

    They equal those of `cvat_sdk.masks.encode_mask`, which puts the box behind them.
    """
    pixels = np.concatenate([[False], mask.ravel()])  # the first count is of zeros
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(edges, prepend=0, append=mask.size).tolist()


def decode_cvat_runs(
    text: str, *, box_width: int, box_height: int
) -> Bool[np.ndarray, "box_height box_width"]:
    """Returns the mask of the run lengths in an attribute `rle`.

    Raises:
        ValueError: they are no whole numbers, or do not fill the box.
    """
    try:
        counts = np.array([int(count) for count in text.split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"rle must be whole numbers with commas, got {text[:40]!r}") from None
    pixels = box_width * box_height
    if not (pixels > 0 and (counts >= 0).all() and (counts <= pixels).all()):
        raise ValueError(f"each count of rle must be in 0 to {pixels}, got {text[:40]!r}")
    if (total := int(counts.sum())) != pixels:
        raise ValueError(
            f"rle must fill its box of {box_width}x{box_height} = {pixels} pixels, got {total}"
        )
    is_inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_inside, counts).reshape(box_height, box_width)
