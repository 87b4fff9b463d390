"""Writes tombstones for units that are never done, since their remaining images are planned anew.

A unit that lost a source cannot be done any more, except by a run that read the source before. To
make sure that such a run comes too late, planning takes the name of the unit's file:

    TABLE/_given_up/begun/<unit>   a tombstone is about to be written
    TABLE/images/<unit>.parquet    no rows: storage gives the name once, to this file or to rows
    TABLE/_given_up/over/<unit>    the tombstone was written

`planning/planner.py` writes tombstones, `labelling/commit.py` may find one in its way, and
`store.py` does not count such a unit as done. The first file is a hint where to look if a run ended
before it wrote the third.
"""

import io
from collections.abc import Set

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Storage, join

_FOLDER, _BEGUN, _OVER = "_given_up", "begun", "over"
_MARK = b"given_up"


def write_tombstone(
    unit_id: str, *, table: str, images: str, schema: pa.Schema, storage: Storage
) -> bool:
    """Prevents a unit from ever being done; returns False if it is done already.

    Args:
        images: location of the file that makes the unit done, and `schema` its columns.
    """
    storage.write(join(table, _FOLDER, _BEGUN, unit_id), b"")
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table().replace_schema_metadata({_MARK: b"1"}), buffer)
    if not storage.write_new(images, buffer.getvalue()) and not is_tombstone(
        images, storage=storage
    ):
        return False
    storage.write(join(table, _FOLDER, _OVER, unit_id), b"")
    return True


def is_tombstone(images: str, *, storage: Storage) -> bool:
    """Returns True if a unit's file of images is a tombstone."""
    try:
        footer = pq.read_metadata(io.BytesIO(storage.read(images)))
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return _MARK in (footer.metadata or {})


def read_tombstones(
    table: str, *, listed: Set[str], images: str, storage: Storage
) -> frozenset[str]:
    """Returns the units with a tombstone.

    Args:
        listed: units with a file in the folder `images`, listed before this call.
    """
    names: dict[str, set[str]] = {_BEGUN: set(), _OVER: set()}
    for file in storage.files(join(table, _FOLDER)):
        *_, kind, unit_id = file.uri.split("/")
        names.setdefault(kind, set()).add(unit_id)
    unclear = names[_BEGUN] & listed - names[_OVER]
    found = {
        unit_id
        for unit_id in unclear
        if is_tombstone(join(images, f"{unit_id}.parquet"), storage=storage)
    }
    return frozenset(names[_OVER] | found)
