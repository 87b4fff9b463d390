"""Lists the formats of exports. Imports nothing: the writer of a format is loaded when it is used.

To add a format, write a module with a class like `writer.Writer`, and name it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.exchange.exporting.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, and how images are named in it."""

    writer: str
    """The class of its writer, as module:name."""
    reserved_folders: tuple[str, ...] = ()
    """Names of folders that mean something else to its readers; those of images are changed."""
    allows_dots: bool = True
    """False if a name ends at its first dot, as in WebDataset."""
    allows_folders: bool = True
    """False if readers find images in one folder alone, as supervision with YOLO's."""
    needs_photos: bool = False
    """True if the format cannot be without the photographs' bytes."""

    def load(self) -> "type[Writer]":
        """Loads the writer's class."""
        module, _, name = self.writer.partition(":")
        found: Any = getattr(import_module(module), name)
        return found


_HERE = "pipeline.exchange.exporting"
_MAP_FOLDERS = (
    "annotations", "labels", "masks", "maps", "gtFine", "SegmentationClass", "segmentation",
)  # fmt: skip

FORMATS: Mapping[str, Format] = {
    "coco_panoptic": Format(writer=f"{_HERE}.coco_panoptic:CocoPanoptic"),
    "coco_instances": Format(writer=f"{_HERE}.coco_instances:CocoInstances"),
    "label_maps": Format(writer=f"{_HERE}.label_maps:LabelMaps", reserved_folders=_MAP_FOLDERS),
    "yolo": Format(writer=f"{_HERE}.yolo:Yolo", allows_folders=False),
    "hf": Format(writer=f"{_HERE}.hub:Hub", needs_photos=True),
    "webdataset": Format(
        writer=f"{_HERE}.webdataset:WebDataset", allows_dots=False, needs_photos=True
    ),
    "cvat": Format(writer=f"{_HERE}.cvat:Cvat"),
    "label_studio": Format(writer=f"{_HERE}.label_studio:LabelStudio"),
}
