"""Adds up the receipts of a unit until every image of it is staged."""

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.run_stats import Counts
from pipeline.runtime.skips import SkipCounts


@dataclass
class UnitReceipts:
    """The receipts of one unit, added up."""

    counts: Counts = field(default_factory=Counts)
    positions: set[int] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    num_images: int | None = None
    """None until the unit's end was seen."""
    is_committing: bool = False

    @property
    def is_complete(self) -> bool:
        """True if every image of the unit is in a receipt."""
        return self.num_images is not None and len(self.positions) == self.num_images

    def add(self, receipt: Mapping[str, Any]) -> tuple[Counts, list[dict[str, Any]]]:
        """Adds a receipt. Returns counts and errors of images not seen before."""
        new = set(receipt["positions"]) - self.positions
        self.positions |= new
        if receipt["part"] is not None and receipt["part"] not in self.parts:
            self.parts.append(receipt["part"])
        skipped = SkipCounts()
        if receipt["num_images"] is not None and self.num_images is None:
            self.num_images = receipt["num_images"]
            skipped.add_all(receipt["skipped"] or ())
        errors = [error for error in receipt["errors"] if error["position"] in new]
        # A part that overlaps another comes from a task that ran twice: its sums are estimated.
        share = len(new) / max(1, len(receipt["positions"]))
        counts = Counts(
            images=len(new),
            segments=round(share * (receipt["num_segments"] or 0)),
            bytes_read=round(share * (receipt["bytes_read"] or 0)),
            errors=collections.Counter(error["error_class"] for error in errors),
            skipped=skipped,
        )
        self.counts.add(counts)
        return counts, errors
