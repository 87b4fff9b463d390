"""Defines the data set: labelled images that any process can read one by one, in any order.

Each kind of data set has a file in this folder, which lists the images without reading them, and a
`Truth`, which reads the labels of one image. `opening.py` finds the kind. A data set travels to
workers by value: it holds a table of locations, no bytes of images, and imports neither torch nor
Ray.
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
"""The truth about an image: each pixel's label; segments of things and stuff; things alone."""

TASKS: Mapping[Truths, tuple[str, ...]] = {
    "labels": ("semantic",),
    "segments": ("panoptic", "semantic", "instance"),
    "instances": ("instance",),
}
"""The tasks that each sort of truth can teach and judge."""


class Truth(Protocol):
    """Reads the labels of one image."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        """Reads the target of a row of the data set's table.

        Raises:
            LabelError: it is damaged or contradicts itself.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image's encoded bytes, and its target."""

    image: EncodedImage
    target: Target


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A data set: `len(dataset)` images; `dataset[index]` reads one with its target."""

    uri: str
    kind: Kind
    truths: Truths
    labels: Labels
    rows: pa.Table
    """One row per image: `image_id`, its location in `image`, and what `truth` needs."""
    truth: Truth
    storage: Storage
    reading: ReadSettings
    values: LabelValues | None = None
    """The rule by which its label maps are read; None without label maps."""
    notes: tuple[str, ...]
    """Lines for people on decisions made and images left out while it was opened."""

    def __len__(self) -> int:
        return self.rows.num_rows

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage(image=self.image(index), target=self.target(index))

    @property
    def tells_things(self) -> bool:
        """True if the data says which labels are things; COCO's panoptic JSON may have none."""
        return bool(self.labels.things) or self.kind == "coco_panoptic"

    def image_id(self, index: int) -> str:
        return self.rows["image_id"][index].as_py()

    def image(self, index: int) -> EncodedImage:
        """Reads the image's bytes; an image that cannot be read has an error instead.

        Raises:
            StorageFault, SourceChanged: the storage failed, or holds another file now.
        """
        row = self._row(index)
        location = DataLocation(**row["image"])
        data, error = None, None
        try:
            data = self._read(location)
        except ImageError as reason:
            error = reason
        return EncodedImage(
            image_id=row["image_id"],
            uri=location.uri,
            member=location.member,
            etag=location.etag,
            data=data,
            error=error,
            row=location.row,
        )

    def target(self, index: int) -> Target:
        """Reads the image's target.

        Raises:
            LabelError: it is damaged or contradicts itself; names the image and the file.
            StorageFault, SourceChanged: the storage failed, or holds another file now.
        """
        return self.truth.target(self._row(index), labels=self.labels, storage=self.storage)

    def first(self, count: int) -> "LabelledImages":
        """Returns the data set of the first `count` images."""
        return replace(self, rows=self.rows.slice(0, count))

    def _read(self, location: DataLocation) -> bytes:
        bound = self.reading.max_image_bytes
        if location.num_bytes is not None and location.num_bytes > bound:
            raise _too_large(location, num_bytes=location.num_bytes, bound=bound)
        try:
            data = location.read(self.storage)
        except LabelError as error:
            raise ImageError("EmptyFile", str(error)) from error
        if len(data) > bound:
            raise _too_large(location, num_bytes=len(data), bound=bound)
        return data

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.uri} has {len(self)} images, got index {index}")
        return self.rows.slice(index, 1).to_pylist()[0]


def rows_schema(*others: tuple[str, pa.DataType]) -> pa.Schema:
    """Returns the schema of a data set's table."""
    return pa.schema([("image_id", pa.string()), ("image", LOCATION), *others])


def _too_large(location: DataLocation, *, num_bytes: int, bound: int) -> ImageError:
    return ImageError(
        "TooLarge",
        f"{location.name}: an encoded image may have {bound} bytes, this has {num_bytes}; "
        "raise --max_image_bytes to allow it",
    )
