"""Removes files that nobody needs any more.

| file | removed |
|---|---|
| staged parts | when their unit is done, or after a day |
| drafts of local writes (`.NAME.HEX.tmp`) | after a day; a writer without its draft starts again |
| compacted files and pointers | when no pointer of the last day names them, and no later one can |
| `segments/UNIT` of a unit with a tombstone | at once |
| a unit's own files, those of revisions | on demand, some days after their compaction |

Of a unit that was stopped between its two files, the `segments` file stays: the next run writes it
again, maybe at this moment, and removing it would lose rows. Units with a tombstone are never done,
so their files can go.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipeline.labelling.commit import clear_leftovers
from pipeline.storage import File, Storage, join
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
    """A file that nobody needs, and its kind."""

    file: File
    kind: str


def clear(table: TableStore) -> list[Leftover]:
    """Removes leftovers of all kinds except units' own files; returns them."""
    staged = {file.uri: file for file in table.storage.files(table.file("_staging"))}
    clear_leftovers(table)
    left = {file.uri for file in table.storage.files(table.file("_staging"))} if staged else set()
    gone = [Leftover(file=staged[uri], kind="staged part") for uri in staged.keys() - left]
    compacted = superseded_files(table.uri, names_of=partial(_names, table), storage=table.storage)
    for leftover in [*_drafts(table), *compacted, *_dead_segments(table)]:
        table.storage.delete([leftover.file.uri])
        gone.append(leftover)
    return gone


def is_old(file: File, *, seconds: float = DAY_SECONDS) -> bool:
    """Returns True if the file was written longer ago than this, by the storage's time."""
    return 0 < file.modified < time.time() - seconds


def is_draft(file: File) -> bool:
    """Returns True for the draft of a write that a killed process left on a disk."""
    return _DRAFT.fullmatch(file.uri.rsplit("/", 1)[1]) is not None


def remove_own_files(table: TableStore, *, days: int) -> list[Leftover]:
    """Removes the own files of units that are in compacted files of at least this age.

    `images` goes first: a reader of patterns between the two removals then sees segments of unknown
    images, rather than images that seem to have no segments.
    """
    parts: tuple[Literal["images", "segments"], ...] = ("images", "segments")
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
                gone.append(Leftover(file=file, kind="own file of a compacted unit"))
    return gone


def segments_without_images(table: TableStore) -> dict[str, File]:
    """Returns the `segments` files of units that are not done."""
    segments = table.unit_files("segments")
    done = table.done_units()  # read after the listing: commits in between are seen
    return {unit: file for unit, file in segments.items() if unit not in done}


def _drafts(table: TableStore) -> Iterator[Leftover]:
    for file in table.storage.files(table.uri):
        if is_draft(file) and is_old(file):
            yield Leftover(file=file, kind="draft of a write")


def superseded_files(
    root: str, *, names_of: Callable[[int], set[str]], storage: Storage
) -> Iterator[Leftover]:
    """Yields pointers superseded a day ago, and compacted files that no other pointer names.

    A folder has the number of the pointer that it was written for. No pointer up to the current
    number can be published any more, so a folder that is not named now will never be; a folder with
    a higher number may be in the making.

    Args:
        root: folder of a table or of its reviews.
        names_of: gives the paths that the pointer of a generation names, relative to `root`.
    """
    files = [file for file in storage.files(join(root, FOLDER)) if not is_draft(file)]
    generations = pointer_generations(root, storage=storage)
    if not generations:
        return
    current = max(generations)
    kept: list[int] = [current]
    superseded: list[int] = []
    for generation, follower in zip(sorted(generations)[:-1], sorted(generations)[1:], strict=True):
        too_old = 0 < generations[follower] < time.time() - DAY_SECONDS
        (superseded if too_old else kept).append(generation)
    names = set[str]().union(*map(names_of, kept))
    by_uri = {file.uri: file for file in files}
    for generation in superseded:
        uri = pointer_file(root, generation)
        if uri in by_uri:
            yield Leftover(file=by_uri[uri], kind="pointer of an earlier compaction")
    for file in files:
        name = file.uri.removeprefix(root).lstrip("/")
        found = _FOLDER.match(name)
        if found and int(found[1]) <= current and name not in names and is_old(file):
            yield Leftover(file=file, kind="file of an earlier compaction")


def _names(table: TableStore, generation: int) -> set[str]:
    try:
        return pointer_of(table.uri, generation, storage=table.storage).names
    except FileNotFoundError:  # another process removed it
        return set()


def _dead_segments(table: TableStore) -> Iterator[Leftover]:
    """Yields the `segments` files of units with a tombstone, which no reader opens."""
    segments = table.unit_files("segments")
    for unit in sorted(table.units().tombstones & segments.keys()):
        yield Leftover(file=segments[unit], kind="segments of a unit with a tombstone")
