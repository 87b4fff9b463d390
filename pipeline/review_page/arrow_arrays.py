"""Passes arrays between numpy and Arrow without pandas.

`pa.array`, `pa.scalar` and `to_numpy` import pandas where it is installed, whatever they are given:
half a second of the time until a page shows its first images.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = pa.Array | pa.ChunkedArray

_KINDS: Mapping[Any, Any] = {
    pa.int32(): np.int32, pa.int64(): np.int64, pa.uint64(): np.uint64, pa.float32(): np.float32,
    pa.float64(): np.float64,
}  # fmt: skip


def arrow_integers(values: npt.NDArray[np.int64]) -> pa.Array:
    """Returns an Arrow array over the memory of a numpy array."""
    values = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def numpy_numbers(column: Column, *, missing: float = 0) -> npt.NDArray[Any]:
    """Returns the numbers of a column, with `missing` for those that are null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    validity, data = array.buffers()
    kind = _KINDS[array.type]
    if data is None or not len(array):
        return np.full(len(array), missing, kind)
    end = array.offset + len(array)
    values = np.frombuffer(data, kind, count=end)[array.offset :]
    if array.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
        values = np.where(bits[array.offset : end] == 1, values, kind(missing))
    return values


def places_in(values: Column, *, of: Column) -> npt.NDArray[np.int64]:
    """Returns the place of each text among unique ones, -1 where it is none of them."""
    return numpy_numbers(pc.index_in(values, value_set=of), missing=-1).astype(np.int64)
