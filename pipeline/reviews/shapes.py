"""Measures the masks of segments, and writes them as run lengths."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskformer import area_of, rle_runs

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SegmentShape:
    """The columns of a segment that its mask decides."""

    area: int
    bbox_x: int
    bbox_y: int
    bbox_w: int
    bbox_h: int


def shape_of_rle(rle: str, *, height: int, width: int) -> SegmentShape:
    """Measures a mask without decoding it; all 0 for an empty one.

    Raises:
        ValueError: the run lengths are no mask of that size.
    """
    runs = rle_runs(rle, height=height, width=width)
    if not len(runs):
        return SegmentShape(area=0, bbox_x=0, bbox_y=0, bbox_w=0, bbox_h=0)
    firsts, lasts = runs[:, 0], runs[:, 1] - 1
    left, right = int(firsts.min()) // height, int(lasts.max()) // height
    top, bottom = int((firsts % height).min()), int((lasts % height).max())
    if (firsts // height != lasts // height).any():  # a run goes on at the top of the next column
        top, bottom = 0, height - 1
    return SegmentShape(
        area=area_of(runs), bbox_x=left, bbox_y=top, bbox_w=right - left + 1,
        bbox_h=bottom - top + 1,
    )  # fmt: skip


def rle_of_mask(mask: Mask) -> str:
    """Returns COCO's compressed counts of a mask of (height, width), which may be empty."""
    # Not `encode_mask`, which loads a compiler: saving one image must not take a second.
    from pycocotools import mask as coco

    encoded: Any = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return encoded["counts"].decode("ascii")
