"""Parquet, read so that a process ends as it should.

Arrow's threads let go of the Python object that they read from some time after the rows are here.
Where the interpreter ends just then, the process aborts with all its work done, or hangs
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
    """A file's rows, or those for which an expression holds, decoded by this thread alone."""
    source = pa.BufferReader(source) if isinstance(source, bytes) else source
    names = None if columns is None else list(columns)
    return pq.read_table(source, columns=names, filters=rows, use_threads=False, pre_buffer=False)


@functools.cache
def end_after_readers() -> None:
    """From now on the end of this process gives Arrow's threads the moment that they need.

    For data sets in filesystems of fsspec, which others read in whatever way they like: nothing
    tells when the threads are done.
    """
    atexit.register(_give_a_moment)


def _give_a_moment() -> None:
    gc.collect()
    time.sleep(0.1)
