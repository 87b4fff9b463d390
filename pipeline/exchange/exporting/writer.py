"""Defines what every writer of a format takes and gives.

A format is a module here with a class that has the methods of `Writer`, and an entry in
`formats.py`. A writer gets the images one by one, in an order that is the same in every run, and
writes the same bytes in every run: no clock, no absolute path of OUT, no unordered set.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.exchange.exporting.output import Output
from pipeline.exchange.records import ExportLabel, ImageExport


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """All that a writer may need to know before the first image."""

    output: Output
    """The folder to write to."""
    table: str
    """Location of the table."""
    labels: tuple[ExportLabel, ...]
    """The labels of the export, by index."""
    task: str
    """Task of the table: panoptic, instance or semantic."""
    splits: tuple[str, ...]
    """Names of the parts; `("default",)` without --splits."""
    num_images: Mapping[str, int]
    """Number of images of each split, as the table has them; some may be left out later."""
    shard_images: int | None
    """Most images of one shard or JSON; None for what is usual in the format."""
    has_photos: bool
    """True if the export holds the photographs, or links to them."""
    model: Mapping[str, object]
    """What the table says of its model: fingerprint, thresholds, place and so on."""
    image_root: str | None
    """Where the corpus is now, absolute; None where the table says."""
    licence: str | None
    """Licence of the exported data, as the user gives it."""
    losses: Counter[str] = field(default_factory=Counter)
    """Counts of what the format cannot hold, by a sentence about it; the writer adds to it."""


class Writer(Protocol):
    """Writes the images of an export in one format."""

    def __init__(self, plan: ExportPlan) -> None: ...

    def add(self, image: ImageExport) -> None:
        """Writes an image, or keeps a bounded part of it for the file that it belongs to."""
        ...

    def finish(self) -> None:
        """Writes what is left, and what readers of the format need beside the images."""
        ...
