"""Settings of maintenance: which table is verified or compacted, and how."""

from dataclasses import dataclass

from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Which table, and how closely to look."""

    table: str
    """Folder or object-store prefix of the segment table; needs no `--table` before it."""
    sample: float = 1.0
    """Share of the images whose run lengths are looked at, in (0, 1]; the same ones each time."""
    json: bool = False
    """Print one JSON object in place of the lines for people."""
    examples: int = 5
    """How many places are shown for each rule that is broken."""
    num_threads: int | None = None
    """How many units are looked at at once; one for each core."""

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample must be in (0, 1], got {self.sample}")
        for name in ("examples", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class CompactSettings:
    """Which table, and how large its files become."""

    table: str
    """Folder or object-store prefix of the segment table; needs no `--table` before it."""
    target_bytes: int = 2**28
    """Size of the files that are made; one that has half of it is not written again."""
    remove_units_after_days: int | None = None
    """Remove the own files of units that a compacted file has held for so many days. Patterns as
    `TABLE/segments/*.parquet` miss these rows then: read the files that
    `pipeline.table.store.segments(TABLE).files` names, as any tool can."""

    def __post_init__(self) -> None:
        if self.target_bytes < 1:
            raise ValueError(f"target_bytes must be at least 1, got {self.target_bytes}")
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
