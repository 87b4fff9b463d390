"""Settings of the comparison of two tables."""

from dataclasses import dataclass

from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Two tables of the same images, and where the result goes."""

    table_a: str
    """Segment table to compare with, as that of the present model."""
    table_b: str
    """Segment table to compare, as that of a new model."""
    output: str
    """Folder or prefix for report.html, the rows `agreement`, and comparison.json."""
    worst: int = 12
    """Number of images that differ most, to be shown with pictures; 0 for none."""
    picture_bytes: int = 2**28
    """Most encoded bytes to read for one picture."""

    def __post_init__(self) -> None:
        if self.worst < 0:
            raise ValueError(f"worst must be at least 0, got {self.worst}")
        if self.picture_bytes < 1:
            raise ValueError(f"picture_bytes must be at least 1, got {self.picture_bytes}")


COMPARE = (CompareSettings, Storage)
"""The parts of a comparison's settings."""
