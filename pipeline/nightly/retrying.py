"""Finds the images in error that get another attempt.

The table itself holds the number of attempts: each attempt left a row of the image's version in a
unit that is done. `planner.py` leaves out images that changed in the corpus or are gone.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow.dataset as ds

from pipeline.planning.planner import FailedImage
from pipeline.storage import StorageFault
from pipeline.table.latest import newest
from pipeline.table.store import IMAGES, TableStore

_COLUMNS = ("image_id", "uri", "member", "etag", "unit_id", "status", "error_class")


def images_to_try_again(
    table: TableStore, *, error_classes: Sequence[str], max_attempts: int
) -> list[FailedImage]:
    """Returns images whose latest row is an error of these classes, with attempts left.

    Raises:
        StorageFault: the table cannot be read now.
    """
    if not error_classes or table.spec() is None:
        return []
    try:
        rows = _rows_of_failed(table, error_classes=error_classes)
    except OSError as error:
        raise StorageFault(f"read {table.uri}: {error}") from error
    attempts = Counter(map(_version, rows))
    return [
        FailedImage(uri=row["uri"], member=row["member"], etag=row["etag"], unit_id=row["unit_id"])
        for row in newest(rows, table=table)
        if row["status"] == "error"
        and row["error_class"] in error_classes
        and attempts[_version(row)] < max_attempts
    ]


def _rows_of_failed(table: TableStore, *, error_classes: Sequence[str]) -> list[dict[str, Any]]:
    """Reads all rows, old and new, of images with an error of these classes in any row."""
    images = table.dataset("images", IMAGES)
    is_wanted = (ds.field("status") == "error") & ds.field("error_class").isin([*error_classes])
    in_error = images.to_table(columns=["image_id"], filter=is_wanted)["image_id"].unique()
    if not len(in_error):
        return []
    is_same = ds.field("image_id").isin(in_error)
    return images.to_table(columns=[*_COLUMNS], filter=is_same).to_pylist()


def _version(row: dict[str, Any]) -> tuple[str, str]:
    return row["image_id"], row["etag"]
