"""Reads compacted units: larger files with the rows of many units each, and their pointer.

    TABLE/_compacted/pointers/<number>.json          the highest number is in force
    TABLE/_compacted/<number>-<id>/units.parquet     all units of that pointer, each with its file
    TABLE/_compacted/<number>-<id>/segments/NNN.parquet   as `segments`, and each row's unit_id
    TABLE/_compacted/<number>-<id>/images/NNN.parquet

`maintenance/compact` writes them, `store.py` reads them in place of the units' own files. Storage
gives each number to one writer only, whose pointer holds all units of the pointer before: a unit in
one pointer is in every later one. A reader that lists the units' own files first and reads the
pointer afterwards therefore sees each done unit once, whatever is joined or removed meanwhile.
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

import pyarrow as pa

from pipeline.corpora.parquet import read_parquet
from pipeline.storage import Storage, join

T = TypeVar("T")

FOLDER = "_compacted"
UNITS = pa.schema([("unit_id", pa.string()), ("file", pa.int32())])
"""`file` is the index of the unit's file in the pointer."""

_POINTERS = "pointers"
_POINTER = re.compile(r"/(\d+)\.json")
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class CompactedFile:
    """A pair of files with the rows of the same units; paths are relative to the table."""

    segments: str
    images: str
    num_units: int
    num_images: int
    num_segments: int
    num_bytes: int
    """Size of both files together."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The list of compacted files; generation 0 is the empty list of a new table."""

    generation: int = 0
    files: tuple[CompactedFile, ...] = ()
    units_file: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def names(self) -> set[str]:
        """Returns the paths of all its files, relative to the table."""
        parts = {name for file in self.files for name in (file.segments, file.images)}
        return parts | ({self.units_file} if self.units_file else set())


def pointer_file(table: str, generation: int) -> str:
    """Returns the location of a pointer."""
    return join(table, FOLDER, _POINTERS, f"{generation:08}.json")


def pointer_generations(table: str, *, storage: Storage) -> dict[int, float]:
    """Returns the existing generations and the time at which each pointer was written."""
    folder = join(table, FOLDER, _POINTERS)
    files = ((file.uri.removeprefix(folder), file.modified) for file in storage.files(folder))
    # The folder may also hold drafts of writers.
    found = ((_POINTER.fullmatch(name), modified) for name, modified in files)
    return {int(name[1]): modified for name, modified in found if name}


def read_pointer(table: str, *, storage: Storage) -> Pointer:
    """Reads the pointer in force."""
    read = partial(pointer_of, table, storage=storage)
    return newest_pointer(table, read, storage=storage) or Pointer()


def newest_pointer(folder: str, read: Callable[[int], T], *, storage: Storage) -> T | None:
    """Reads the pointer in force, of a table or of its reviews; None where there is none."""
    for _ in range(_ATTEMPTS):
        generations = pointer_generations(folder, storage=storage)
        if not generations:
            return None
        # One that was superseded long ago may have been removed since the listing.
        with contextlib.suppress(FileNotFoundError):
            return read(max(generations))
    raise FileNotFoundError(f"the pointers in {join(folder, FOLDER)} vanish while they are read")


def pointer_of(table: str, generation: int, *, storage: Storage) -> Pointer:
    """Reads the pointer of a generation."""
    fields = json.loads(storage.read(pointer_file(table, generation)))
    files = tuple(CompactedFile(**file) for file in fields.pop("files"))
    return Pointer(files=files, **fields)


def compacted_units(table: str, pointer: Pointer, *, storage: Storage) -> dict[str, int]:
    """Returns the units of a pointer, each with the index of its file."""
    if pointer.units_file is None:
        return {}
    rows = read_parquet(storage.read(join(table, pointer.units_file)))
    return dict(zip(rows["unit_id"].to_pylist(), rows["file"].to_pylist(), strict=True))
