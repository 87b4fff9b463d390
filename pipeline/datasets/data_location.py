"""Places: where the encoded bytes of an image or a map lie, one at a time and in any order.

A place is a whole file, a range of an archive or a cell of a Parquet file. Lists of places are
columns of a table, so that those of a million images travel between processes in one piece.
"""

import functools
import threading
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.datasets.target import LabelError
from pipeline.storage import Storage

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
"""The type of a column of places."""

_GROUPS_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """Where some bytes lie: in a file, from `start` to `stop` of it, or in a cell of its rows."""

    uri: str
    etag: str
    size: int
    """Bytes of the whole file."""
    member: str | None = None
    """Name in an archive."""
    start: int | None = None
    stop: int | None = None
    row: int | None = None
    column: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        if self.row is not None:
            return f"{self.uri}, row {self.row}"
        return self.uri if self.member is None else f"{self.uri}, member {self.member}"

    @property
    def num_bytes(self) -> int | None:
        """None where only reading can tell."""
        if self.row is not None:
            return None
        return self.size if self.stop is None else self.stop - (self.start or 0)

    def read(self, storage: Storage) -> bytes:
        """The bytes.

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


def read_cell(place: DataLocation, *, storage: Storage) -> Any:
    """The value of a Parquet cell.

    Raises:
        LabelError: the file is damaged.
        StorageFault, SourceChanged: as `Storage.read`.
    """
    assert place.row is not None
    assert place.column is not None
    file = place.uri, place.etag, place.size
    try:
        with _ONE_AT_A_TIME:
            starts = _group_starts(storage, *file)
            group = max(g for g, start in enumerate(starts[:-1]) if start <= place.row)
            cells = _column(storage, *file, group, place.column)
        return cells[place.row - starts[group]].as_py()
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        said = " ".join(str(error).split())[:200]
        raise LabelError(f"{place.name}: the Parquet file cannot be read: {said}") from error


# Threads that read neighbours would otherwise all fetch the same row group.
_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=256)
def _group_starts(storage: Storage, uri: str, etag: str, size: int) -> tuple[int, ...]:
    """The first row of each row group, and the number of all rows."""
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
