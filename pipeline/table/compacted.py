"""Compacted units: larger files with the rows of many units each, and the pointer that names them.

    TABLE/_compacted/pointers/<number>.json          the highest number is the one that counts
    TABLE/_compacted/<number>-<id>/units.parquet     all units of that pointer, each with its file
    TABLE/_compacted/<number>-<id>/segments/NNN.parquet   as `segments`, and each row's unit_id
    TABLE/_compacted/<number>-<id>/images/NNN.parquet

`compact/` writes them, `store.py` reads them in place of the units' own files. Each number is given
to one writer only, whose pointer holds all units of the one before: once in a pointer, a unit is in
every later one. So whoever lists the units' own files first, and reads the pointer then, sees each
unit that is done, and sees it once, whatever is joined or removed meanwhile.
"""

import json
import re
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.corpora.parquet import read_parquet
from pipeline.storage import Storage, join

FOLDER = "_compacted"
UNITS = pa.schema([("unit_id", pa.string()), ("file", pa.int32())])
"""`file` counts the pointer's files from 0."""

_POINTERS = "pointers"
_POINTER = re.compile(r"/(\d+)\.json")
_LOOKS = 5


@dataclass(frozen=True, kw_only=True)
class CompactedFile:
    """Two files with the rows of the same units; their places are relative to the table."""

    segments: str
    images: str
    num_units: int
    num_images: int
    num_segments: int
    num_bytes: int
    """Of both."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What is compacted; of generation 0, nothing."""

    generation: int = 0
    files: tuple[CompactedFile, ...] = ()
    units_file: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def names(self) -> set[str]:
        """All files that it needs, relative to the table."""
        parts = {name for file in self.files for name in (file.segments, file.images)}
        return parts | ({self.units_file} if self.units_file else set())


def pointer_file(table: str, generation: int) -> str:
    return join(table, FOLDER, _POINTERS, f"{generation:08}.json")


def pointer_generations(table: str, *, storage: Storage) -> dict[int, float]:
    """The generations that there are, and when the pointer of each was written."""
    folder = join(table, FOLDER, _POINTERS)
    files = ((file.uri.removeprefix(folder), file.modified) for file in storage.files(folder))
    # Beside pointers there may be what a writer needs or left.
    found = ((_POINTER.fullmatch(name), modified) for name, modified in files)
    return {int(name[1]): modified for name, modified in found if name}


def read_pointer(table: str, *, storage: Storage) -> Pointer:
    """The pointer that counts now."""
    for _ in range(_LOOKS):
        generations = pointer_generations(table, storage=storage)
        if not generations:
            return Pointer()
        try:
            return pointer_of(table, max(generations), storage=storage)
        except FileNotFoundError:  # older by days now, and cleared between the two looks
            continue
    raise FileNotFoundError(f"the pointers in {join(table, FOLDER)} go while they are looked at")


def pointer_of(table: str, generation: int, *, storage: Storage) -> Pointer:
    """The pointer of that generation."""
    said = json.loads(storage.read(pointer_file(table, generation)))
    files = tuple(CompactedFile(**file) for file in said.pop("files"))
    return Pointer(files=files, **said)


def compacted_units(table: str, pointer: Pointer, *, storage: Storage) -> dict[str, int]:
    """The units that a pointer holds, and which of its files each is in."""
    if pointer.units_file is None:
        return {}
    rows = read_parquet(storage.read(join(table, pointer.units_file)))
    return dict(zip(rows["unit_id"].to_pylist(), rows["file"].to_pylist(), strict=True))
