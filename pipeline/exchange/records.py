"""Defines the record of one image that every format is written from.

`exporting/reading.py` makes records from a table; the writers in `exporting/` take them one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from maskformer import painted, rle_runs


class ExportSegment(NamedTuple):
    """A segment of an image, as the table or its newest review has it."""

    segment_id: int
    """From 1, unique within the image."""
    label_index: int
    """Number of the label in the export, from 0; `ExportLabel.index`."""
    label: str
    is_thing: bool
    score: float | None
    """None for a segment that a person drew."""
    area: int
    box_xywh: tuple[int, int, int, int]
    rle: str
    """COCO's compressed counts, of the image's full size."""
    origin: Literal["model", "human"] = "model"


@dataclass(frozen=True, kw_only=True)
class ExportLabel:
    """A label of the export."""

    index: int
    """From 0; formats that count categories from 1 use `index + 1`."""
    name: str
    is_thing: bool
    colour: tuple[int, int, int]
    """Red, green and blue, each in [0, 255]."""


@dataclass(frozen=True, kw_only=True)
class ImageExport:
    """An image with all that a format may say of it."""

    number: int
    """From 1, unique in the export: the id of the image in formats with whole numbers."""
    image_id: str
    """Its id in the table."""
    name: str
    """Its path in the export, with an extension, as `town/0001.jpg`; it never leaves its folder.
    Names differ in more than their extensions, and by more than upper and lower case."""
    split: str
    """Name of its part of the export; `default` without --splits."""
    height: int
    width: int
    uri: str
    """The location that the table names."""
    member: str | None
    """Its name in an archive."""
    segments: Sequence[ExportSegment]
    """In the order of their ids; empty for an image without segments."""
    photo: bytes | None
    """Encoded upright photograph; None with --images none, and where `linked` stands for it."""
    linked: str | None
    """File on this machine that a link in the export leads to."""
    model: str
    """Name and revision of the model that made the segments; empty where the table does not say."""
    revision: int
    """Number of the review that the segments are of; 0 for the model's own."""
    etag: str
    """Etag of the photograph, by which an import tells that it has changed since."""

    @property
    def stem(self) -> str:
        """Returns the name without its extension."""
        return self.name.rpartition(".")[0]

    def painted(self, values: Sequence[int]) -> Int32[np.ndarray, "height width"]:
        """Paints `values[i]` where the i-th segment is, 0 elsewhere.

        Segments of a table do not overlap; where those of another source do, the later one lies on
        top.
        """
        size = {"height": self.height, "width": self.width}
        masks = [rle_runs(segment.rle, **size) for segment in self.segments]
        return painted(masks, list(values), **size).astype(np.int32, copy=False)

    def id_map(self) -> Int32[np.ndarray, "height width"]:
        """Paints the segment ids."""
        return self.painted([segment.segment_id for segment in self.segments])
