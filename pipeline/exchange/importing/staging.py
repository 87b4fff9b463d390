"""Keeps images and regions of a file in a temporary database, whatever their order in the file.

A file may be larger than memory: the masks are in a file beside the database, which spills to a
disk, so that memory stays about the same however many images there are. `matching.py` finds the
images in the table, and `grouping.py` gives the regions back image by image.
"""

from typing import Any

import pyarrow as pa

from pipeline.exchange.importing.annotations import AnnotationReader, Region
from pipeline.exchange.importing.payloads import Payloads
from pipeline.table.scratch import ScratchDatabase

_ROWS_AT_ONCE = 1 << 14

_IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("image_id", pa.string()),
        ("etag", pa.string()),
        ("revision", pa.int32()),
        ("reviewer", pa.string()),
        ("place", pa.int64()),
    ]
)
_REGIONS = pa.schema(
    [
        ("image", pa.string()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("start", pa.int64()),
        ("length", pa.int64()),
        ("level", pa.int32()),
        ("name", pa.string()),
        ("place", pa.int64()),
    ]
)


def stage(
    reader: AnnotationReader, *, database: ScratchDatabase, payloads: Payloads
) -> tuple[int, int]:
    """Reads a file to its end into the tables `file_images` and `regions`.

    A region's mask goes to `payloads`; its row says where it is. Returns the numbers of images and
    of regions.

    Raises:
        UnreadableFile: the file is cut off, or of another format.
    """
    images = _Rows("file_images", _IMAGES, database=database)
    regions = _Rows("regions", _REGIONS, database=database)
    for found in reader:
        if isinstance(found, Region):
            image, label, kind, payload, level, name = found
            start = payloads.add(payload)
            regions.add((image, label, kind, start, len(payload), level, name))
        else:
            images.add(found)
    images.flush()
    regions.flush()
    payloads.end()
    return images.count, regions.count


class _Rows:
    """Rows of one table; the last column is the number of the row in the file."""

    def __init__(self, name: str, schema: pa.Schema, *, database: ScratchDatabase) -> None:
        self.count = 0
        self._name, self._schema, self._database = name, schema, database
        self._rows: list[tuple] = []
        with database.view("no_rows", schema.empty_table()):
            database.run(f"CREATE TABLE {name} AS SELECT * FROM no_rows")

    def add(self, row: tuple) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            columns: list[Any] = [list(column) for column in zip(*self._rows, strict=True)]
            columns.append(range(self.count - len(self._rows), self.count))
            self._database.insert(self._name, pa.table(columns, schema=self._schema))
            self._rows = []
