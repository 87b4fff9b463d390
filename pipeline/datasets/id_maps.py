"""Maps of ids, looked up and counted some rows at a time.

numpy makes eight bytes of each pixel's id on the way, which is more than the photograph takes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, Integer, Shaped

_PIXELS_AT_ONCE = 1 << 18


def looked_up(
    table: Shaped[np.ndarray, " values"], ids: Integer[np.ndarray, "height width"]
) -> Shaped[np.ndarray, "height width"]:
    """`table[ids]`."""
    found = np.empty(ids.shape, table.dtype)
    for band in bands(ids):
        found[band] = table[ids[band]]
    return found


def count_ids(
    ids: Integer[np.ndarray, "height width"], *, at_least: int = 0
) -> Int64[np.ndarray, " counts"]:
    """The pixels of each id from 0 on, up to the highest and for `at_least` so many ids."""
    counts = np.zeros(max(int(ids.max(initial=0)) + 1, at_least), np.int64)
    for band in bands(ids):
        counts += np.bincount(ids[band].ravel(), minlength=len(counts))
    return counts


def bands(ids: Shaped[np.ndarray, "height width *others"]) -> Iterator[slice]:
    """Rows that take little memory together, from the top to the bottom."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, ids.shape[1]))
    for first in range(0, len(ids), rows):
        yield slice(first, first + rows)
