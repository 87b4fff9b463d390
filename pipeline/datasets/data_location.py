"""Reads the encoded bytes of one image or map from a file, an archive or a Parquet file.

Lists of locations are columns of a table, so that those of a million images travel between
processes in one piece.
"""

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.datasets.target import LabelError
from pipeline.storage import File, Storage

LOCATION = pa.struct(
    [
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("member", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("row", pa.int64()),
        ("column", pa.string()),
    ]
)
"""The type of a column of locations."""

_GROUPS_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """The location of some bytes: a whole file, a byte range of an archive, or a Parquet cell."""

    uri: str
    etag: str
    size: int
    """Bytes of the whole file."""
    member: str | None = None
    """Name in an archive."""
    start: int | None = None
    """The first byte of the member in its archive."""
    stop: int | None = None
    """The byte behind its last."""
    row: int | None = None
    """Row of a Parquet file, counted from 0."""
    column: str | None = None

    @classmethod
    def of_file(cls, file: File) -> "DataLocation":
        """Returns the location of a whole file."""
        return cls(uri=file.uri, etag=file.etag, size=file.size)

    @property
    def name(self) -> str:
        """Returns the location in words, for messages."""
        if self.row is not None:
            return f"{self.uri}, row {self.row}"
        return self.uri if self.member is None else f"{self.uri}, member {self.member}"

    @property
    def num_bytes(self) -> int | None:
        """Returns the length in bytes; None for a Parquet cell, whose length only reading tells."""
        if self.row is not None:
            return None
        return self.size if self.stop is None else self.stop - (self.start or 0)

    def read(self, storage: Storage) -> bytes:
        """Reads the bytes.

        Raises:
            LabelError: a cell holds none.
            StorageFault, SourceChanged: as `Storage.read`.
        """
        if self.row is None:
            return storage.read(self.uri, etag=self.etag, start=self.start or 0, stop=self.stop)
        value = read_cell(self, storage=storage)
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes) or not value:
            raise LabelError(f"{self.name}: there are no bytes in the column {self.column}")
        return value


def labels_source(row: Mapping[str, Any], location: DataLocation) -> str:
    """Names an image and the file with its labels, for messages."""
    return f"image {row['image_id']}, labels in {location.name}"


def read_cell(location: DataLocation, *, storage: Storage) -> Any:
    """Reads the value of a Parquet cell.

    Raises:
        LabelError: the file is damaged.
        StorageFault, SourceChanged: as `Storage.read`.
    """
    assert location.row is not None
    assert location.column is not None
    file = location.uri, location.etag, location.size
    try:
        with _ONE_AT_A_TIME:
            starts = _group_starts(storage, *file)
            group = max(g for g, start in enumerate(starts[:-1]) if start <= location.row)
            cells = _column(storage, *file, group, location.column)
        return cells[location.row - starts[group]].as_py()
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        said = " ".join(str(error).split())[:200]
        raise LabelError(f"{location.name}: the Parquet file cannot be read: {said}") from error


# Threads that read neighbours would otherwise all fetch the same row group.
_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=256)
def _group_starts(storage: Storage, uri: str, etag: str, size: int) -> tuple[int, ...]:
    """Returns the first row of each row group, followed by the number of all rows."""
    with storage.open(uri, etag=etag, size=size) as file:
        metadata = pq.ParquetFile(file).metadata
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


@functools.lru_cache(maxsize=_GROUPS_KEPT)
def _column(
    storage: Storage, uri: str, etag: str, size: int, group: int, column: str
) -> pa.ChunkedArray:
    with storage.open(uri, etag=etag, size=size) as file:
        return pq.ParquetFile(file).read_row_group(group, columns=[column]).column(0)
