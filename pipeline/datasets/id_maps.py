"""Looks up and counts the ids of a map some rows at a time.

numpy widens each pixel's id to eight bytes in between, which is more than the photograph takes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, Integer, Shaped

_PIXELS_AT_ONCE = 1 << 18


def look_up_ids(
    table: Shaped[np.ndarray, " values"], ids: Integer[np.ndarray, "height width"]
) -> Shaped[np.ndarray, "height width"]:
    """Returns `table[ids]`."""
    found = np.empty(ids.shape, table.dtype)
    for rows in row_slices(ids):
        found[rows] = table[ids[rows]]
    return found


def count_ids(
    ids: Integer[np.ndarray, "height width"], *, at_least: int = 0
) -> Int64[np.ndarray, " counts"]:
    """Counts the pixels of each id, from 0 to the highest; returns at least `at_least` counts."""
    counts = np.zeros(max(int(ids.max(initial=0)) + 1, at_least), np.int64)
    for rows in row_slices(ids):
        counts += np.bincount(ids[rows].ravel(), minlength=len(counts))
    return counts


def row_slices(ids: Shaped[np.ndarray, "height width *others"]) -> Iterator[slice]:
    """Yields slices of rows, from top to bottom, each of at most 2^18 pixels."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, ids.shape[1]))
    for first in range(0, len(ids), rows):
        yield slice(first, first + rows)
