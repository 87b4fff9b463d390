"""Settings of planning: the size of a unit of work."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """Size of a unit of work. Larger units give fewer files, but a crash loses more work."""

    unit_images: int = 1000
    """Most images of a unit, where their number is known (files, Parquet)."""
    unit_bytes: int = 2**30
    """Most bytes of a unit; larger tars and Parquet files are cut into several."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
