"""Choosing what to join: new units, and with them compacted files that are not much larger.

A file is written again only if it becomes half as large again, so that each byte is written some
times on the way to the target, by the logarithm. Of the files that stay small, each has more than
twice the size of the next: they are few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.table.compacted import CompactedFile

_MOST_TIMES = 2
"""So many times the bytes that come to it may a file have and be written again."""


@dataclass(frozen=True, kw_only=True)
class CompactionPlan:
    """What one compaction joins."""

    units: tuple[str, ...]
    """Units that are in files of their own."""
    absorbed: tuple[CompactedFile, ...]
    """Compacted files whose units go into the new ones."""
    kept: tuple[CompactedFile, ...]

    @property
    def is_worth_it(self) -> bool:
        """Whether there will be fewer files."""
        return bool(self.units) and len(self.units) + len(self.absorbed) > 1


def choose(
    unit_bytes: Mapping[str, int], *, files: Sequence[CompactedFile], target_bytes: int
) -> CompactionPlan:
    """What to join of units, by their bytes, and of the files that are compacted so far.

    What has half the target is large enough and stays.
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
