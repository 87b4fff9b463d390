"""Groups neighbouring rows with one value, as those of a unit or of an image."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def neighbours(rows: pa.Table, column: str) -> Iterator[tuple[str, int, int]]:
    """Yields each text that neighbours share, the first row of them and the one behind the last."""
    if not rows.num_rows:
        return
    ids = pc.fill_null(rows[column], "").combine_chunks().dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    codes = ids.indices.to_numpy(zero_copy_only=False)
    edges = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), rows.num_rows]
    for start, stop in pairwise(edges):
        yield ids.dictionary[int(codes[start])].as_py(), start, stop


def grouped(batches: Iterable[pa.RecordBatch], column: str) -> Iterator[tuple[str, pa.Table]]:
    """Yields each text and its rows; at most one batch more is in memory."""
    value, parts = "", list[pa.Table]()
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        for found, start, stop in neighbours(rows, column):
            if parts and found != value:
                yield value, pa.concat_tables(parts)
                parts = []
            value = found
            parts.append(rows.slice(start, stop - start))
    if parts:
        yield value, pa.concat_tables(parts)
