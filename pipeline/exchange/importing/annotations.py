"""Defines what a file of annotations says of an image, whatever its format.

`coco.py`, `cvat.py`, `label_studio.py` and `label_maps.py` read it; `staging.py` keeps it out of
memory; `regions.py` turns it into a map.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

Kind = Literal["rle", "polygons", "cvat", "brush", "id_map", "label_map", "problem"]
"""`rle`: COCO's compressed counts. `polygons`: a segmentation of COCO as JSON. `cvat`: JSON with
the attributes of a mask. `brush`: the bytes of Label Studio. `id_map`, `label_map`: JSON that names
a PNG with all segments of the image. `problem`: a sentence that says why there is no mask."""


class UnreadableFile(ValueError):
    """A file of annotations is cut off, or of another format; nothing of it can be taken."""


class FileImage(NamedTuple):
    """An image as a file of annotations lists it."""

    key: str
    """Its id in the file, unique there."""
    name: str
    """Its name or address in the file."""
    height: int | None = None
    """None where only its map or its regions say it."""
    width: int | None = None
    image_id: str | None = None
    """Its id in the table, where the file carries it."""
    etag: str | None = None
    """Etag of the photograph that was exported, where the file carries it."""
    revision: int | None = None
    """Number of the review that was exported, 0 for the model's rows; None if it is not said."""
    reviewer: str | None = None
    """Who annotated it, where the file says it."""


class Region(NamedTuple):
    """A part of an image with one label; a map of a whole image is one region too."""

    image: str
    """Key of its image."""
    label: str
    """Key of its category where the format has categories apart, else the label's name."""
    kind: Kind
    payload: bytes
    level: int = 0
    """Regions of a higher level lie over those of a lower one."""
    name: str = ""
    """What the file calls it, for messages."""


class AnnotationReader(Protocol):
    """Reads a file of annotations from its start to its end."""

    decides_overlaps: bool
    """True if the order of regions says which one lies on top."""

    def __iter__(self) -> Iterator[FileImage | Region]:
        """Yields images and regions in any order.

        Raises:
            UnreadableFile: it is cut off, or of another format.
        """
        ...

    @property
    def labels(self) -> dict[str, str] | None:
        """Returns the names of categories by key, after the last region; None where regions have
        the names themselves."""
        ...
