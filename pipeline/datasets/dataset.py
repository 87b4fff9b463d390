"""Data sets: labelled images that can be read one by one, in any order, in any process.

A kind of data set is a file of this folder that lists its images, cheaply, and a `Truth` that reads
what is known of one. `opening.py` finds the kind. A data set travels to workers by value: it holds
a table of places, no bytes of images, and starts neither torch nor Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.reading import EncodedImage, ReadSettings
from pipeline.datasets.data_location import LOCATION, DataLocation
from pipeline.datasets.label_values import LabelValues
from pipeline.datasets.settings import Kind
from pipeline.datasets.target import LabelError, Labels, Target
from pipeline.storage import Storage

Truths = Literal["labels", "segments", "instances"]
"""What is known of an image: each pixel's label; segments of things and stuff; things alone."""

TASKS: Mapping[Truths, tuple[str, ...]] = {
    "labels": ("semantic",),
    "segments": ("panoptic", "semantic", "instance"),
    "instances": ("instance",),
}
"""The tasks that each sort of truth can judge."""


class Truth(Protocol):
    """Reads what is known of one image."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        """The target of a row of the data set's table.

        Raises:
            LabelError: it is damaged or contradicts itself.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image's encoded bytes, and what is known of it."""

    image: EncodedImage
    target: Target


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A data set. `len`, and `dataset[index]` for one image with its target."""

    uri: str
    kind: Kind
    truths: Truths
    labels: Labels
    rows: pa.Table
    """One row per image: `image_id`, its place in `image`, and what `truth` needs."""
    truth: Truth
    storage: Storage
    reading: ReadSettings
    values: LabelValues | None = None
    """How its label maps write labels; None where it has none."""
    notes: tuple[str, ...] = ()
    """What was decided or left out while it was opened, for people."""

    def __len__(self) -> int:
        return self.rows.num_rows

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage(image=self.image(index), target=self.target(index))

    @property
    def tells_things(self) -> bool:
        """Whether it says which labels are things; COCO's panoptic JSON may have none."""
        return bool(self.labels.things) or self.kind == "coco_panoptic"

    def image_id(self, index: int) -> str:
        return self.rows["image_id"][index].as_py()

    def image(self, index: int) -> EncodedImage:
        """The image's bytes, or an error in their place.

        Raises:
            StorageFault, SourceChanged: the storage failed, or holds another file now.
        """
        row = self._row(index)
        place = DataLocation(**row["image"])
        data, error = None, None
        try:
            data = self._read(place)
        except ImageError as reason:
            error = reason
        return EncodedImage(
            image_id=row["image_id"],
            uri=place.uri,
            member=place.member,
            etag=place.etag,
            data=data,
            error=error,
            row=place.row,
        )

    def target(self, index: int) -> Target:
        """What is known of the image.

        Raises:
            LabelError: it is damaged or contradicts itself; names the image and the file.
            StorageFault, SourceChanged: the storage failed, or holds another file now.
        """
        return self.truth.target(self._row(index), labels=self.labels, storage=self.storage)

    def first(self, count: int) -> "LabelledImages":
        """The first so many images."""
        return replace(self, rows=self.rows.slice(0, count))

    def _read(self, place: DataLocation) -> bytes:
        bound = self.reading.max_image_bytes
        if place.num_bytes is not None and place.num_bytes > bound:
            raise _too_large(place, num_bytes=place.num_bytes, bound=bound)
        try:
            data = place.read(self.storage)
        except LabelError as error:
            raise ImageError("EmptyFile", str(error)) from error
        if len(data) > bound:
            raise _too_large(place, num_bytes=len(data), bound=bound)
        return data

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.uri} has {len(self)} images, got index {index}")
        return self.rows.slice(index, 1).to_pylist()[0]


def rows_schema(*others: tuple[str, pa.DataType]) -> pa.Schema:
    """The columns of a data set's table."""
    return pa.schema([("image_id", pa.string()), ("image", LOCATION), *others])


def where(row: Mapping[str, Any], place: DataLocation) -> str:
    """An image and the file with its labels, for messages."""
    return f"image {row['image_id']}, labels in {place.name}"


def _too_large(place: DataLocation, *, num_bytes: int, bound: int) -> ImageError:
    return ImageError(
        "TooLarge",
        f"{place.name}: an encoded image may have {bound} bytes, this has {num_bytes}; "
        "raise max_image_bytes to allow it",
    )
