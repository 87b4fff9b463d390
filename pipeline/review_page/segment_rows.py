"""Reads the segments of one image at a time from a table, as its model left them.

Neighbours in a grid often lie in one unit, so that the units read last are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpora.parquet import read_parquet
from pipeline.storage import File, SourceChanged
from pipeline.table.store import SEGMENTS, TableStore, rows_of_unit

_MOST_KEPT_BYTES = 2**26
_LARGEST_UNIT_BYTES = 2**24


class SegmentRows:
    """Reads rows of `segments`; may be used by several threads."""

    def __init__(self, table: TableStore) -> None:
        self._table = table
        self._files: dict[str, File] | None = None
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[str, threading.Lock] = {}

    def of_image(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the segments of a row of `images`, in the order of their ids.

        Raises:
            SourceChanged: the unit's file is gone, and in no other file either.
            StorageFault: the storage failed, after retries.
        """
        if not row["num_segments"]:
            return []
        rows = self._of_image(row).to_pylist()
        return sorted(rows, key=lambda each: each["segment_id"])

    def _of_image(self, row: Mapping[str, Any]) -> pa.Table:
        unit, image_id = row["unit_id"], row["image_id"]
        is_its = pc.field("image_id") == image_id
        with self._lock:
            lock = self._reading.setdefault(unit, threading.Lock())
        with lock:  # threads that want neighbours would all read the same file
            kept = self._kept_unit(unit)
            if kept is not None:
                return kept.filter(is_its)
            file = self._file(unit)
            try:
                return self._read(file, unit=unit, is_its=is_its)
            except (SourceChanged, FileNotFoundError):
                # Compaction has moved the rows to another file.
                self._files = None
                return self._read(self._file(unit), unit=unit, is_its=is_its)

    def _read(self, file: File, *, unit: str, is_its: pc.Expression) -> pa.Table:
        is_of_unit = rows_of_unit(file.uri, unit)
        is_small = file.size <= _LARGEST_UNIT_BYTES
        wanted = is_of_unit if is_small else is_of_unit & is_its
        with self._table.storage.open(file.uri, etag=file.etag, size=file.size) as data:
            names = [n for n in pq.read_schema(data).names if n in _COLUMNS]
            data.seek(0)
            rows = read_parquet(data, columns=names, rows=wanted)
        if not is_small:
            return rows
        with self._lock:
            self._kept[unit] = rows
            while sum(each.nbytes for each in self._kept.values()) > _MOST_KEPT_BYTES:
                self._kept.popitem(last=False)
                if not self._kept:
                    break
        return rows.filter(is_its)

    def _kept_unit(self, unit: str) -> pa.Table | None:
        with self._lock:
            if unit in self._kept:
                self._kept.move_to_end(unit)
            return self._kept.get(unit)

    def _file(self, unit: str) -> File:
        files = self._files
        if files is None or unit not in files:  # a later run has added units
            files = self._files = self._table.segment_files()
        try:
            return files[unit]
        except KeyError:
            raise SourceChanged(
                f"{self._table.uri} has no file with the segments of unit {unit}; "
                "load the page again to see the table as it is now"
            ) from None


_SECOND = ("second_label_id", "second_label", "second_score")
_COLUMNS = frozenset([*SEGMENTS.names, *_SECOND])
