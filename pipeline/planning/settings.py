"""Settings of planning: the size of a unit of work."""

import dataclasses
from dataclasses import dataclass

from pipeline.runtime.bounds import check_at_least


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """Size of a unit of work. Larger units give fewer files, but a crash loses more work."""

    unit_images: int = 1000
    """Most images of a unit, where their number is known (files, Parquet)."""
    unit_bytes: int = 2**30
    """Most bytes of a unit; larger tars and Parquet files are cut into several."""

    def __post_init__(self) -> None:
        check_at_least(1, self, *(field.name for field in dataclasses.fields(self)))
