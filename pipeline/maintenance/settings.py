"""Settings of verification and compaction."""

from dataclasses import dataclass

from pipeline.runtime.bounds import check_at_least
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Table to verify, and amount of checking."""

    table: str
    """Segment table: a folder or prefix."""
    sample: float = 1.0
    """Share of images whose run lengths are decoded, in (0, 1]. Always the same images."""
    json: bool = False
    """Print one JSON object instead of text."""
    examples: int = 5
    """Number of examples for each broken rule."""
    num_threads: int | None = None
    """Number of units to check at once; by default one per core."""
    reviews: str | None = None
    """Folder of the table's reviews, if they are not in the table."""

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample must be in (0, 1], got {self.sample}")
        check_at_least(1, self, "examples", "num_threads")


@dataclass(frozen=True, kw_only=True)
class CompactSettings:
    """Table to compact, and size of the compacted files."""

    table: str
    """Segment table: a folder or prefix."""
    target_bytes: int = 2**28
    """Bytes of a compacted file. A file of half of it is not rewritten."""
    remove_units_after_days: int | None = None
    """Remove small files that were compacted so many days ago. Patterns as
    `TABLE/segments/*.parquet` miss their rows then: read the files that
    `pipeline.table.store.segments(TABLE).files` names, as any tool can."""
    reviews: str | None = None
    """Folder of the table's reviews, if they are not in the table."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "target_bytes")
        days = self.remove_units_after_days
        if days is not None and days < 1:
            raise ValueError(
                f"remove_units_after_days must be at least 1, got {days}; readers may have opened "
                "these files"
            )


VERIFY = (VerifySettings, Storage)
"""The parts of a verification's settings."""

COMPACT = (CompactSettings, Storage)
"""The parts of a compaction's settings."""
