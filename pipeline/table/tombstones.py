"""Units that are given up: never done, because what is left of them is planned anew.

A unit that lost a source cannot be done any more, but by a run that has read all of it before. So
that this run comes second, the unit's place is taken:

    TABLE/_given_up/begun/<unit>   somebody is about to
    TABLE/images/<unit>.parquet    no rows: the store gives the name once, to this file or to rows
    TABLE/_given_up/over/<unit>    it was given to this file

`planning/planner.py` gives up, `labelling/commit.py` may come second, and for `store.py` such a
unit is not done. The first of the three tells where to look if a run ended before the third.
"""

import io
from collections.abc import Set

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Storage, join

_FOLDER, _BEGUN, _OVER = "_given_up", "begun", "over"
_MARK = b"given_up"


def give_up(unit_id: str, *, table: str, images: str, schema: pa.Schema, storage: Storage) -> bool:
    """Sees to it that a unit is never done; False where it is done already.

    Args:
        table: location of the table.
        images: location of the file that makes the unit done.
        schema: its columns.
    """
    storage.write(join(table, _FOLDER, _BEGUN, unit_id), b"")
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table().replace_schema_metadata({_MARK: b"1"}), buffer)
    if not storage.write_new(images, buffer.getvalue()) and not is_given_up(
        images, storage=storage
    ):
        return False
    storage.write(join(table, _FOLDER, _OVER, unit_id), b"")
    return True


def is_given_up(images: str, *, storage: Storage) -> bool:
    """Whether the file in which a unit's images would be says that it is given up."""
    try:
        footer = pq.read_metadata(io.BytesIO(storage.read(images)))
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return _MARK in (footer.metadata or {})


def given_up_units(
    table: str, *, listed: Set[str], images: str, storage: Storage
) -> frozenset[str]:
    """The units that are given up.

    Args:
        listed: units with a file in the folder `images`, as they were before this is called.
    """
    names: dict[str, set[str]] = {_BEGUN: set(), _OVER: set()}
    for file in storage.files(join(table, _FOLDER)):
        *_, kind, unit_id = file.uri.split("/")
        names.setdefault(kind, set()).add(unit_id)
    unclear = names[_BEGUN] & listed - names[_OVER]
    found = {
        unit_id
        for unit_id in unclear
        if is_given_up(join(images, f"{unit_id}.parquet"), storage=storage)
    }
    return frozenset(names[_OVER] | found)
