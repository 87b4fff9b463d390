"""Settings of planning: how large a unit of work may become."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """How large a unit may become: the larger, the fewer files, and the more is lost in a crash."""

    unit_images: int = 1000
    """Most images of a unit, where their number is known without reading (files, Parquet)."""
    unit_bytes: int = 2**30
    """Most bytes of a unit; a tar or Parquet file larger than this is cut into several units."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
