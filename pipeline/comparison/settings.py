"""Settings of the comparison of two tables, and of the choice of images to look at."""

from dataclasses import dataclass
from typing import Literal

from pipeline.runtime.bounds import check_at_least
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Two tables of the same images, and where the result goes."""

    table_a: str
    """Segment table to compare with, as that of the present model."""
    table_b: str
    """Segment table to compare, as that of a new model."""
    output: str
    """Folder or prefix for the report, the numbers and a row per image."""
    worst: int = 12
    """Number of images to show with pictures: those that differ most."""
    picture_bytes: int = 2**28
    """Most encoded bytes to read for one picture."""

    def __post_init__(self) -> None:
        check_at_least(0, self, "worst")
        check_at_least(1, self, "picture_bytes")


COMPARE = (CompareSettings, Storage)
"""The parts of a comparison's settings."""


@dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """Images to choose, and the queue to write."""

    table: str
    """Segment table to choose images of."""
    by: Literal["unsure", "strange", "disagree", "random"]
    """What makes an image worth a look. unsure: the model's second label is close; strange: unusual
    among the table's images; disagree: another table says otherwise; random: the seed alone."""
    output: str
    """Parquet file for the queue, which is a corpus manifest too."""
    count: int = 500
    """Most images to choose."""
    per_label: int | None = None
    """Most images for one label; each image is chosen for one. By default count decides alone,
    and labels take turns."""
    seed: int = 0
    """Decides among equals; the same seed chooses the same images."""
    agreement: str | None = None
    """For disagree: output of `maskformer compare`, or its folder agreement."""
    table_b: str | None = None
    """For disagree: the other table, which is compared now."""
    reviews: str | None = None
    """Folder of the reviews, by default that in the table. Reviewed images are left out."""
    key_column: str | None = None
    """Parquet column with the image ids, where the table was made with one."""

    def __post_init__(self) -> None:
        if not self.output.endswith(".parquet"):
            raise ValueError(f"output must end with .parquet, got {self.output}")
        check_at_least(1, self, "count", "per_label")
        others = [name for name in ("agreement", "table_b") if getattr(self, name) is not None]
        if self.by == "disagree" and len(others) != 1:
            raise ValueError("--by disagree needs one of --agreement and --table_b")
        if self.by != "disagree" and others:
            raise ValueError(f"--{others[0]} has an effect with --by disagree alone; leave it out")


SELECT = (SelectSettings, Storage)
"""The parts of a selection's settings."""
