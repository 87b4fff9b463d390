"""Settings of planning: the size of a unit of work."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """Bounds of a unit's size. Larger units give fewer files, but a crash loses more work."""

    unit_images: int = 1000
    """Most images of a unit, if their number is known without reading (files, Parquet)."""
    unit_bytes: int = 2**30
    """Most bytes of a unit; a tar or Parquet file larger than this is cut into several units."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
