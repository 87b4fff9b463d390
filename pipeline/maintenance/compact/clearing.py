"""Clearing: what nobody reads any more goes, and nothing that anybody could still need.

| what | when |
|---|---|
| staged parts | their unit is done, or they are a day old |
| drafts of local writes (`.NAME.HEX.tmp`) | a day old; a writer that lost its draft writes again |
| compacted files and pointers | no pointer of the last day names them, nor can a later one do so |
| `segments/UNIT` of a unit that was given up | at once |
| a unit's own files | on demand, of units that are in a compacted file for some days |

A unit that was stopped between its two files is done again by the next run, under the same names:
its `segments` file is left alone, for a run may be writing it at this moment, and who removes it
then loses rows. The exception are units that planning gave up: they are never done.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.labelling.commit import clear_leftovers
from pipeline.storage import File
from pipeline.table.compacted import (
    FOLDER,
    pointer_file,
    pointer_generations,
    pointer_of,
)
from pipeline.table.store import TableStore

DAY_SECONDS = 24 * 3600.0
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_FOLDER = re.compile(rf"{FOLDER}/(\d+)-[0-9a-f]+/")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One file that nobody needs."""

    file: File
    what: str


def clear(table: TableStore) -> list[Leftover]:
    """Removes what the table above says, but for units' own files; what was removed."""
    staged = {file.uri: file for file in table.storage.files(table.file("_staging"))}
    clear_leftovers(table)
    left = {file.uri for file in table.storage.files(table.file("_staging"))} if staged else set()
    gone = [Leftover(file=staged[uri], what="staged part") for uri in staged.keys() - left]
    for leftover in [*_drafts(table), *_compacted(table), *_dead_segments(table)]:
        table.storage.delete([leftover.file.uri])
        gone.append(leftover)
    return gone


def is_old(file: File, *, seconds: float = DAY_SECONDS) -> bool:
    """Whether the store says that the file was written so long ago."""
    return 0 < file.modified < time.time() - seconds


def is_draft(file: File) -> bool:
    """Whether it is what a killed process left of a write on a disk."""
    return _DRAFT.fullmatch(file.uri.rsplit("/", 1)[1]) is not None


def remove_own_files(table: TableStore, *, days: int) -> list[Leftover]:
    """Removes the own files of units that are in compacted files of at least that age.

    `images` first: a reader of patterns that comes between the two sees segments of a unit that is
    not listed, rather than images that seem to have none.
    """
    parts: tuple[Literal[images, segments], ...] = ("images", "segments")
    own = {part: table.unit_files(part) for part in parts}
    done = table.units()
    places = [table.storage.file(table.file(file.images)) for file in done.files]
    old = {
        number
        for number, place in enumerate(places)
        if place is not None and is_old(place, seconds=days * DAY_SECONDS)
    }
    gone = []
    for part in parts:
        for unit, file in own[part].items():
            if done.compacted.get(unit) in old:
                table.storage.delete([file.uri])
                gone.append(Leftover(file=file, what="own file of a compacted unit"))
    return gone


def segments_without_images(table: TableStore) -> dict[str, File]:
    """The `segments` files of units that are not done."""
    segments = table.unit_files("segments")
    done = table.done_units()  # after the listing: of a unit that is committed now, both are seen
    return {unit: file for unit, file in segments.items() if unit not in done}


def _drafts(table: TableStore) -> Iterator[Leftover]:
    for file in table.storage.files(table.uri):
        if is_draft(file) and is_old(file):
            yield Leftover(file=file, what="draft of a write")


def _compacted(table: TableStore) -> Iterator[Leftover]:
    """Pointers that were superseded a day ago, and files that only they name, or none.

    A folder bears the number of the pointer that it was written for. Up to the current number none
    can be published any more, so that a folder that no pointer names now will never be named;
    beyond it a compaction may be writing.
    """
    files = [file for file in table.storage.files(table.file(FOLDER)) if not is_draft(file)]
    generations = pointer_generations(table.uri, storage=table.storage)
    if not generations:
        return
    current = max(generations)
    kept: list[int] = [current]
    superseded: list[int] = []
    for generation, follower in zip(sorted(generations)[:-1], sorted(generations)[1:], strict=True):
        too_old = 0 < generations[follower] < time.time() - DAY_SECONDS
        (superseded if too_old else kept).append(generation)
    names = set[str]().union(*(_names(table, generation) for generation in kept))
    by_uri = {file.uri: file for file in files}
    for generation in superseded:
        uri = pointer_file(table.uri, generation)
        if uri in by_uri:
            yield Leftover(file=by_uri[uri], what="pointer of an earlier compaction")
    for file in files:
        name = file.uri.removeprefix(table.uri).lstrip("/")
        found = _FOLDER.match(name)
        if found and int(found[1]) <= current and name not in names and is_old(file):
            yield Leftover(file=file, what="file of an earlier compaction")


def _names(table: TableStore, generation: int) -> set[str]:
    try:
        return pointer_of(table.uri, generation, storage=table.storage).names
    except FileNotFoundError:  # another clearing was first
        return set()


def _dead_segments(table: TableStore) -> Iterator[Leftover]:
    """`segments` files of units that were given up: no reader ever looks at them."""
    segments = table.unit_files("segments")
    for unit in sorted(table.units().tombstones & segments.keys()):
        yield Leftover(file=segments[unit], what="segments of a unit that was given up")
