"""Settings of exports."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.corpora.settings import ReadSettings
from pipeline.runtime.bounds import check_at_least, check_shares
from pipeline.storage import Storage

FormatName = Literal[
    "coco_panoptic", "coco_instances", "label_maps", "cvat", "label_studio", "hf", "webdataset",
    "yolo",
]  # fmt: skip

DEFAULT_SPLIT = "default"
"""Name of the only part of an export without --splits."""

_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Table to export, and format and content of the export."""

    table: str
    """Segment table: a folder or prefix."""
    output: str
    """Folder or prefix to write to. Empty, or with an unfinished export of the same kind."""
    format: FormatName
    """Format of the export."""
    labels: tuple[str, ...] = ()
    """Labels to export, all by default. The export numbers these alone. A name with a comma is
    written in quotation marks, --labels '["door, open", wall]'."""
    min_score: float | None = None
    """Leave out segments with a lower score. In [0, 1]; segments that a person drew have none and
    stay."""
    where: str | None = None
    """Condition in DuckDB's SQL, as "area > 100 AND label != 'sky'". On the columns of segments;
    the column origin is model or human."""
    segments: Literal["all", "things"] = "all"
    """Export things and stuff, or countable objects alone."""
    splits: tuple[str, ...] = ()
    """Parts and their shares, as train=0.9,val=0.1. The image_id alone decides the part, so that no
    image changes its part when the table grows."""
    images: Literal["copy", "link", "none"] = "copy"
    """Copy the photographs, link to them, or leave them out. copy writes them upright; link makes
    symbolic links to those that are upright files on this machine, and copies the others."""
    image_root: str | None = None
    """Where the corpus is now, if it has moved. A folder or prefix with the same paths below it.
    With --images none the tasks of label_studio name the photographs there."""
    shard_images: int | None = None
    """Most images of one shard or JSON. By default 50,000 for JSONs and 1,000 for other shards."""
    reviewed: Literal["only", "first", "ignore"] = "first"
    """Reviewed images only, reviews first, or no reviews. first takes the newest review of an image
    before the model's segments; only leaves out images without a review that was accepted or
    corrected; ignore takes the model's segments alone."""
    reviews: str | None = None
    """Folder or prefix of the reviews, if not in the table."""
    licence: str | None = None
    """Licence of the exported data, for the files that have a place for it, as cc-by-4.0."""

    def __post_init__(self) -> None:
        check_shares(self, "min_score")
        check_at_least(1, self, "shard_images")
        if self.reviews is not None and self.reviewed == "ignore":
            raise ValueError("reviews has no effect with --reviewed ignore; leave one out")
        has_addresses = self.format == "label_studio"
        if self.image_root is not None and self.images == "none" and not has_addresses:
            raise ValueError(
                "image_root with --images none is for label_studio, whose tasks name the "
                f"photographs; the format is {self.format}: leave one out"
            )
        _ = self.shares

    @property
    def shares(self) -> dict[str, float]:
        """Returns the splits with their shares, which add up to 1."""
        if not self.splits:
            return {DEFAULT_SPLIT: 1.0}
        shares: dict[str, float] = {}
        for word in self.splits:
            name, _, text = word.partition("=")
            try:
                share = float(text)
            except ValueError:
                share = math.nan
            if not _SPLIT.fullmatch(name) or not 0 < share <= 1 or name in shares:
                raise ValueError(
                    "splits must be names with shares in (0, 1], each name once, as "
                    f"train=0.9,val=0.1, got {word!r}"
                )
            shares[name] = share
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"the shares of splits must add up to 1, got {sum(shares.values()):g}")
        return shares


EXPORT = (ExportSettings, ReadSettings, Storage)
"""The parts of an export's settings."""
