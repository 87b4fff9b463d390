"""Settings of a data set: its location, and all that its files cannot tell."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "label_maps", "coco_panoptic", "coco_instances", "webdataset", "parquet", "segment_table"
]


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Labelled images, on a disk or at any fsspec URL; what is None is found out."""

    dataset: str
    """COCO's JSON (panoptic or instances); a folder or prefix of photographs with label maps, of
    tars or of Parquet files, one such file, or some of a folder's (train-*.tar); or a segment
    table."""
    dataset_kind: Kind | None = None
    """Which of these it is, where that cannot be told from the files."""
    images: str | None = None
    """Folder of the photographs that a COCO JSON names; the usual places beside it."""
    maps: str | None = None
    """Folder of the label maps, or of COCO's panoptic PNGs; the usual places beside the
    photographs, or beside the JSON."""
    image_suffix: str | None = None
    """What a photograph's name has before its extension and its map's has not; _leftImg8bit where
    there is such a name."""
    map_suffix: str | None = None
    """The same for maps; _gtFine_labelTrainIds beside _leftImg8bit, and _mask and the like where
    there are such names."""
    skip_unlabelled: bool = False
    """Leave photographs without a label map out, and count and name them; else they are an error.
    In Parquet files these are rows whose map is null."""
    label_members: tuple[str, ...] = ("seg.png", "label.png", "mask.png", "png")
    """Extensions of an archive's members that are maps; of those with one name, the first in this
    order is the map."""
    label_column: str | None = None
    """The Parquet column with the encoded maps; None finds it by name and type."""
    labels: str | None = None
    """JSON with the names of the labels, {"labels": [...], "things": [...], "ignore_index": n}, or
    the list alone, or {"0": "road", ...}; {"colors": {"road": [128, 64, 128], ...}} where maps are
    of colours, or CVAT's labelmap.txt; labels.json beside the data. Not for COCO's JSON and tables,
    which have them."""
    ignore_index: int | None = None
    """The value in label maps that counts for nothing; what labels.json says, or 255, or 65535
    where there are more labels."""
    reduce_labels: bool | None = None
    """In label maps 0 counts for nothing and 1 is the first label, as in ADE20K; what labels.json
    says, or what the model says (do_reduce_labels) where the labels are its own, or no."""
    skip_unusable: bool = False
    """Leave out, count and name annotations of COCO's instances that no mask can be made of: no
    segmentation, a box or two points in its place, damaged run lengths. Else they are an error."""

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
            if getattr(self, name) not in (
                None,
                DatasetSettings.__dataclass_fields__[name].default,
            ):
                raise ValueError(f"{name} has no effect on {because}; leave it out")
