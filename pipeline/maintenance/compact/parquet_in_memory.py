"""Writes a Parquet file in memory, in row groups of equal size."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetInMemory:
    """A Parquet file that grows by some rows at a time."""

    def __init__(self, schema: pa.Schema, *, options: Mapping[str, Any], group_rows: int) -> None:
        """Takes the options of `pyarrow.parquet.ParquetWriter`."""
        self.num_rows = 0
        self._schema, self._group_rows = schema, group_rows
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, schema, **options)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    @property
    def num_bytes(self) -> int:
        """Returns the size so far; rows of the next row group count as they are in memory."""
        return self._buffer.tell() + sum(rows.nbytes for rows in self._waiting)

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows.replace_schema_metadata(self._schema.metadata))
        self._waiting_rows += rows.num_rows
        self.num_rows += rows.num_rows
        if self._waiting_rows >= self._group_rows:
            self._write(self._waiting_rows // self._group_rows * self._group_rows)

    def close(self) -> bytes:
        """Returns the whole file."""
        self._write(self._waiting_rows)
        self._writer.close()
        return self._buffer.getvalue()

    def _write(self, count: int) -> None:
        if self._waiting_rows:
            rows = pa.concat_tables(self._waiting)
            self._writer.write_table(rows.slice(0, count), row_group_size=self._group_rows)
            self._waiting, self._waiting_rows = [rows.slice(count)], rows.num_rows - count
