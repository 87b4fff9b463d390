"""Reads Parquet so that the process can end safely.

Arrow's threads release the Python object that they read from only some time after the rows arrive.
If the interpreter ends in between, the process aborts with all its work done, or hangs
(https://github.com/apache/arrow/issues/34314 and .../50482).
"""

import atexit
import functools
import gc
import time
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def read_parquet(
    source: bytes | BinaryIO,
    *,
    columns: Sequence[str] | None = None,
    rows: pc.Expression | None = None,
) -> pa.Table:
    """Reads a file's rows, or those for which an expression holds, in this thread alone."""
    source = pa.BufferReader(source) if isinstance(source, bytes) else source
    names = None if columns is None else list(columns)
    if rows is None:
        # `read_table` imports Arrow's data sets, and they import pandas: 0.4 s of a process.
        file = pq.ParquetFile(source, pre_buffer=False)
        if names is None:
            return file.read(use_threads=False)
        if {*names} <= {*file.schema_arrow.names}:
            return file.read(columns=names, use_threads=False).select(names)
    return pq.read_table(source, columns=names, filters=rows, use_threads=False, pre_buffer=False)


@functools.cache
def end_after_readers() -> None:
    """Makes this process wait a moment at its end, until Arrow's threads are done.

    For data sets in fsspec filesystems that other libraries read: nothing tells when their threads
    are done.
    """
    atexit.register(_give_a_moment)


def _give_a_moment() -> None:
    gc.collect()
    time.sleep(0.1)
