"""Settings of imports."""

from dataclasses import dataclass
from typing import Literal

from pipeline.storage import Storage

ImportFormat = Literal["coco_panoptic", "coco_instances", "cvat", "label_studio", "label_maps"]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Annotations to take back, and the table that they are of."""

    file: str
    """JSON of COCO or Label Studio, CVAT's XML, or a folder of label maps. On a disk or in a
    bucket."""
    table: str
    """Segment table that was exported: a folder or prefix."""
    format: ImportFormat
    """Format of the file."""
    reviewer: str | None = None
    """Who corrected the annotations; by default whom the file names."""
    exported: str | None = None
    """Folder of the export that was corrected, or its export.json. Segments that it left out,
    as by --min_score, stay as they are. By default the export that the file lies in, if any."""
    maps: str | None = None
    """Folder of the PNGs of a panoptic JSON; by default the folder of its name without .json, as
    COCO has it."""
    overlaps: Literal["refuse", "last_on_top"] = "refuse"
    """What to do where masks overlap and may not. refuse takes nothing of such an image of COCO or
    Label Studio; last_on_top lays later masks of the file over earlier ones. CVAT says it by
    z_order."""
    reviews: str | None = None
    """Folder or prefix of the reviews, if not in the table."""
    findings: str | None = None
    """File for all that was not taken, a JSON object a line. The terminal shows 20 of each kind."""
    dry_run: bool = False
    """Say what would be taken, and write nothing."""

    def __post_init__(self) -> None:
        if self.maps is not None and self.format != "coco_panoptic":
            raise ValueError(f"maps are of coco_panoptic, the format is {self.format}")
        if self.overlaps != "refuse" and self.format not in ("coco_instances", "label_studio"):
            raise ValueError(
                f"overlaps is for coco_instances and label_studio, the format is {self.format}"
            )
        if self.reviewer is not None and not self.reviewer.strip():
            raise ValueError("reviewer must be a name, got an empty one")


IMPORT = (ImportSettings, Storage)
"""The parts of an import's settings."""
