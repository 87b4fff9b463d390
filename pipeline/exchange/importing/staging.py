"""Keeps images and regions of a file in a temporary database, whatever their order in the file.

A file may be larger than memory: the regions are in a file beside the database, which spills to a
disk, so that memory stays about the same however many images there are. `matching.py` finds the
images in the table, and `grouping.py` gives the regions back image by image.
"""

from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from pipeline.exchange.importing.annotations import AnnotationReader, FileImage, Region
from pipeline.exchange.importing.payloads import Payloads
from pipeline.table.scratch import ScratchDatabase

_ROWS_AT_ONCE = 1 << 13
_REGIONS_AT_ONCE = 1 << 10

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
        ("number", pa.int64()),
        ("start", pa.int64()),
        ("length", pa.int64()),
        ("place", pa.int64()),
    ]
)
"""Regions of an image that follow each other in the file; `number` counts them."""


def stage(
    reader: AnnotationReader, *, database: ScratchDatabase, payloads: Payloads
) -> tuple[int, int]:
    """Reads a file to its end into the tables `file_images` and `regions`.

    Regions go to `payloads`; their row says where they are. Returns the numbers of images and of
    regions.

    Raises:
        UnreadableFile: the file is cut off, or of another format.
    """
    images = _Rows("file_images", _IMAGES, database=database)
    regions = _Rows("regions", _REGIONS, database=database)
    num_regions = 0
    for key, found in groupby(reader, key=_image_of):
        if key is None:
            for image in found:
                images.add(image)
            continue
        while some := [
            each for each in islice(found, _REGIONS_AT_ONCE) if isinstance(each, Region)
        ]:
            start, length = payloads.add(some)
            regions.add((key, len(some), start, length))
            num_regions += len(some)
    images.flush()
    regions.flush()
    payloads.end()
    return images.count, num_regions


def _image_of(found: FileImage | Region) -> str | None:
    return found.image if isinstance(found, Region) else None


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
