"""Plans a compaction: new units, and compacted files that are not much larger, are joined.

A file is rewritten only if it grows by half, so that each byte is rewritten a logarithmic number of
times. Of the files that stay small, each has more than twice the size of the next: they are few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

_MOST_TIMES = 2
"""A file with more than this many times the bytes that are joined is not rewritten."""


class LargerFile(Protocol):
    """A file that holds the rows of many smaller ones."""

    @property
    def num_bytes(self) -> int: ...


File = TypeVar("File", bound=LargerFile)


@dataclass(frozen=True, kw_only=True)
class CompactionPlan(Generic[File]):
    """The units and files that one compaction joins."""

    units: tuple[str, ...]
    """Units in their own files."""
    absorbed: tuple[File, ...]
    """Compacted files whose units go into the new files."""
    kept: tuple[File, ...]

    @property
    def saves_files(self) -> bool:
        """Returns True if there will be fewer files."""
        return bool(self.units) and len(self.units) + len(self.absorbed) > 1


def plan_compaction(
    unit_bytes: Mapping[str, int], *, files: Sequence[File], target_bytes: int
) -> CompactionPlan[File]:
    """Chooses among units, by their bytes, and among the compacted files so far.

    Units and files of half the target size or more stay as they are.
    """
    enough = target_bytes // 2
    units = tuple(sorted(unit for unit, size in unit_bytes.items() if size < enough))
    joined = sum(unit_bytes[unit] for unit in units)
    absorbed = set()
    for index in sorted(range(len(files)), key=lambda index: files[index].num_bytes):
        size = files[index].num_bytes
        if size > _MOST_TIMES * joined or size >= enough:
            break
        joined += size
        absorbed.add(index)
    return CompactionPlan(
        units=units,
        absorbed=tuple(file for index, file in enumerate(files) if index in absorbed),
        kept=tuple(file for index, file in enumerate(files) if index not in absorbed),
    )
