"""Settings of a data set: its location, and all that its files cannot tell."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "label_maps", "coco_panoptic", "coco_instances", "webdataset", "parquet", "segment_table"
]


@dataclass(frozen=True, kw_only=True)
class DatasetForm:
    """All that the files of labelled images cannot tell; what is not given is found out."""

    dataset_kind: Kind | None = None
    """Kind of the data set, where the files do not tell."""
    images: str | None = None
    """Folder of the photographs that a COCO JSON names; by default the usual places beside it."""
    maps: str | None = None
    """Folder of the label maps, or of COCO's panoptic PNGs; by default the usual places."""
    image_suffix: str | None = None
    """End of a photograph's name that its map's has not; by default _leftImg8bit, where there is
    one."""
    map_suffix: str | None = None
    """End of a map's name that its photograph's has not. By default _gtFine_labelTrainIds beside
    _leftImg8bit, or _mask and the like, where there is one."""
    skip_unlabelled: bool = False
    """Leave out photographs without a label map, and count and name them. Else they are an error.
    In Parquet files these are rows without a map."""
    label_members: tuple[str, ...] = ("seg.png", "label.png", "mask.png", "png")
    """Extensions of an archive's members that are maps. Of those with one name the first in this
    order is the map."""
    label_column: str | None = None
    """Parquet column with the encoded maps; found by name and type where not given."""
    labels: str | None = None
    """JSON with the labels' names; by default labels.json beside the data. {"labels": [...],
    "things": [...], "ignore_index": n}, or the list alone, or {"0": "road", ...}; {"colors":
    {"road": [128, 64, 128], ...}} where maps are of colours, or CVAT's labelmap.txt. Not for COCO's
    JSON and tables, which have them."""
    ignore_index: int | None = None
    """Value in label maps that counts for nothing. By default what labels.json says, or 255, or
    65535 where there are more labels."""
    reduce_labels: bool | None = None
    """In label maps 0 counts for nothing and 1 is the first label, as in ADE20K. By default what
    labels.json says, else what the model says (do_reduce_labels) where the labels are its own, else
    false."""
    skip_unusable: bool = False
    """Leave out annotations of COCO's instances without a usable mask, and count and name them.
    Such have no segmentation, a box or two points in its place, or damaged run lengths. Else they
    are an error."""
    reviewed: Literal["only", "first", "ignore"] | None = None
    """Images of a segment table; by default only reviewed ones where it has reviews. only: those
    that a reviewer accepted or corrected; first: these, and all others that have no review, as the
    model labelled them; ignore: all images, as the model labelled them."""
    reviews: str | None = None
    """Folder of the table's reviews, if they are not in the table."""

    def __post_init__(self) -> None:
        if self.ignore_index is not None and not 0 <= self.ignore_index < 1 << 16:
            raise ValueError(f"ignore_index must be in 0 to 65535, got {self.ignore_index}")
        if not self.label_members:
            raise ValueError("label_members must name at least one extension, as png")

    def refuse(self, *names: str, because: str) -> None:
        """Raises ValueError where one of these is set: it would have no effect.

        Args:
            because: what the data set is that has no use for them.
        """
        for name in names:
            if getattr(self, name) not in (None, DatasetForm.__dataclass_fields__[name].default):
                raise ValueError(f"{name} has no effect on {because}; leave it out")


@dataclass(frozen=True, kw_only=True)
class DatasetSettings(DatasetForm):
    """Labelled images; what is not given is found out."""

    dataset: str
    """Labelled images: COCO JSON, folder, tars, Parquet or segment table. COCO's JSON may be
    panoptic or instances; a folder or prefix has photographs with label maps, tars or Parquet
    files; a pattern (train-*.tar) takes some of a folder's. On a disk, or at any URL that fsspec
    knows."""
