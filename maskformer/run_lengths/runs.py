"""Masks as runs of pixels: read from run lengths, compared and painted, none of them decoded.

Runs go down one column after the other, as COCO's do. They take memory by a mask's outline, where
a decoded mask takes the whole image's.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64, Integer

from maskformer.run_lengths.rle import counts_of

Runs: TypeAlias = Int64[np.ndarray, "_ 2"]
"""Where each run of a mask begins and ends, in pixels of a column-major image; ascending."""


def rle_runs(rle: str, *, height: int, width: int) -> Runs:
    """The runs of the mask that `rle` encodes, of the size that it was encoded with.

    Raises:
        ValueError: it encodes no mask of that size.
    """
    edges = np.cumsum(counts_of(rle, height=height, width=width))
    runs = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    return runs[runs[:, 1] > runs[:, 0]]


def area_of(runs: Runs) -> int:
    """The pixels of a mask."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def is_overlapping(masks: Sequence[Runs]) -> bool:
    """Tells whether two of the masks share a pixel."""
    runs = np.concatenate([np.zeros((0, 2), np.int64), *masks])
    starts, ends = runs[runs[:, 0].argsort(kind="stable")].T
    return bool((starts[1:] < np.maximum.accumulate(ends)[:-1]).any())


def painted(
    masks: Sequence[Runs], ids: Sequence[int], *, height: int, width: int
) -> Integer[np.ndarray, "{height} {width}"]:
    """A map of ids, 0 where no mask is. Masks are painted in order: the last lies on top."""
    columns = np.zeros(height * width, np.min_scalar_type(max([0, *ids])))
    for runs, mask_id in zip(masks, ids, strict=True):
        # A loop compiled by numba would be faster, and readers start without it.
        for start, end in runs.tolist():
            columns[start:end] = mask_id
    return np.ascontiguousarray(columns.reshape(width, height).T)
