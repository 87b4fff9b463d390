"""Opens COCO's instance format: a JSON of images, and of polygons or run lengths for each object.

Objects may overlap. A target keeps the whole mask of each as run lengths; in its map small objects
lie on top of large ones, and crowds below all.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.coco_entries import (
    Categories,
    Category,
    Image,
    images_by_id,
    refuse_twice,
    unknown_id,
)
from pipeline.datasets.coco_json import NULL, CocoFile, Flag, Id, is_set
from pipeline.datasets.coco_panoptic import refuse_label_map_settings
from pipeline.datasets.coco_segmentation import (
    SegmentationError,
    check_segmentation,
    segmentation_rle,
)
from pipeline.datasets.data_location import DataLocation
from pipeline.datasets.dataset import LabelledImages, rows_schema
from pipeline.datasets.named_files import NamedFiles
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError, Labels, Target, TrueSegment, objects_target
from pipeline.runtime.wording import count
from pipeline.storage import Storage

_OBJECT = pa.struct(
    [
        ("label_id", pa.int32()),
        ("is_crowd", pa.bool_()),
        ("area", pa.float64()),
        ("segmentation", pa.large_binary()),  # JSON, as the file has it
    ]
)
_SCHEMA = rows_schema(("height", pa.int32()), ("width", pa.int32()), ("objects", pa.list_(_OBJECT)))
_LARGEST_AREA = 2**53
_SHOWN = 3


class _Image(Image, frozen=True, gc=False, kw_only=True):
    height: int | float
    width: int | float


class _Annotation(msgspec.Struct, frozen=True, gc=False):
    image_id: Id
    category_id: Id
    id: Id | None = None
    iscrowd: Flag = None
    area: int | float | None = None
    segmentation: msgspec.Raw = NULL


class _Content(msgspec.Struct, frozen=True, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Category]


@dataclass(frozen=True, kw_only=True)
class InstanceTruth:
    """Makes masks of the outlines of each image's objects."""

    uri: str
    """The JSON, for messages."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        height, width = row["height"], row["width"]
        source = f"image {row['image_id']}, objects in {self.uri}"
        try:
            segments = [
                TrueSegment(
                    id=number,
                    label_id=each["label_id"],
                    is_crowd=each["is_crowd"],
                    rle=segmentation_rle(each["segmentation"], height=height, width=width),
                    area=each["area"],
                )
                for number, each in enumerate(row["objects"], start=1)
            ]
            return objects_target(segments, size=(height, width))
        except ValueError as error:
            raise LabelError(f"{source}: {error}") from error


def open_coco_instances(
    settings: DatasetSettings, *, file: CocoFile, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    """Opens the images that the JSON lists, in its order, including those without objects.

    Raises:
        LabelError: the JSON is no such JSON, or names a file that is not there.
    """
    settings.refuse("maps", because="COCO's instances")
    refuse_label_map_settings(settings, because="COCO's JSON")
    content = file.read_as(_Content)
    images = images_by_id(file, content.images)
    sizes = _sizes(file, content.images, max_pixels=reading.max_image_pixels)
    categories = Categories.of(
        file, content.categories, used={each.category_id for each in content.annotations}
    )
    names = [str(image.file_name) for image in images.values()]
    photos = NamedFiles.of_photographs(settings, names=names, uri=file.uri, storage=storage)
    locations = [DataLocation.of_file(photos.file(name)) for name in names]
    refuse_twice(
        file,
        [("images", index, "file_name") for index in range(len(locations))],
        [location.uri for location in locations],
        rule="must be a photograph of its own, with all its objects",
    )
    size_of = {image.id: size for image, size in zip(content.images, sizes, strict=True)}
    unusable = _Unusable(file=file)
    objects: dict[Id, list[_Object]] = defaultdict(list)
    for index, annotation in enumerate(content.annotations):
        image = images.get(annotation.image_id)
        if image is None:
            path = ("annotations", index, "image_id")
            raise unknown_id(file, path, annotation.image_id, known=images)
        made = _object(file, index, annotation, categories=categories)
        height, width = size_of[image.id]
        try:
            check_segmentation(made.segmentation, height=height, width=width)
        except SegmentationError as error:
            unusable.add(index, error)
        else:
            objects[image.id].append(made)
    notes = unusable.notes(len(content.annotations), are_skipped=settings.skip_unusable)
    return LabelledImages(
        uri=file.uri,
        kind="coco_instances",
        truths="instances",
        labels=categories.labels,
        rows=pa.table(
            {
                "image_id": names,
                "image": [asdict(location) for location in locations],
                "height": [height for height, _ in sizes],
                "width": [width for _, width in sizes],
                "objects": _column([objects[image.id] for image in content.images]),
            },
            schema=_SCHEMA,
        ),
        truth=InstanceTruth(uri=file.uri),
        storage=storage,
        reading=reading,
        notes=(*photos.notes, *categories.notes, *notes),
    )


def _sizes(file: CocoFile, images: Sequence[_Image], *, max_pixels: int) -> list[tuple[int, int]]:
    """Returns height and width of each image; masks need them before a photograph is read."""
    for index, image in enumerate(images):
        for name, value in (("height", image.height), ("width", image.width)):
            if value < 1 or value != int(value):
                raise file.wrong(("images", index, name))
        if image.height * image.width > max_pixels:
            raise file.wrong(
                ("images", index),
                rule=f"must have at most {max_pixels} pixels",
                way_out="raise --max_image_pixels to allow more",
            )
    return [(int(image.height), int(image.width)) for image in images]


class _Object(NamedTuple):
    label_id: int
    is_crowd: bool
    area: float | None
    segmentation: bytes


def _object(
    file: CocoFile, index: int, annotation: _Annotation, *, categories: Categories
) -> _Object:
    area = annotation.area
    if area is not None and not 0 <= area <= _LARGEST_AREA:
        raise file.wrong(("annotations", index, "area"))
    return _Object(
        label_id=categories.label_id(
            file, ("annotations", index, "category_id"), annotation.category_id
        ),
        is_crowd=is_set(file, ("annotations", index, "iscrowd"), annotation.iscrowd),
        area=area,
        segmentation=bytes(annotation.segmentation),
    )


def _column(objects: Sequence[Sequence[_Object]]) -> pa.ListArray:
    """Builds the column from columns: dictionaries would take several times the file's memory."""
    values = zip(*(each for one in objects for each in one), strict=True)
    return pa.ListArray.from_arrays(
        pa.array([0, *accumulate(map(len, objects))], pa.int32()),
        pa.StructArray.from_arrays(
            [pa.array(list(v), field.type) for v, field in zip(values, _OBJECT, strict=True)],
            fields=list(_OBJECT),
        ),
    )


@dataclass(kw_only=True)
class _Unusable:
    """The annotations whose segmentation gives no mask: their number, and the first of them."""

    file: CocoFile
    count: int = 0
    first: list[tuple[int, SegmentationError]] = field(default_factory=list)

    def add(self, index: int, error: SegmentationError) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append((index, error))

    def notes(self, num_annotations: int, *, are_skipped: bool) -> tuple[str, ...]:
        """Returns the note on annotations that are left out.

        Raises:
            LabelError: they may not be left out, or there are no others.
        """
        if not self.count:
            return ()
        has = "has" if self.count == 1 else "have"
        finding = (
            f"{self.count:,} of {count(num_annotations, 'annotation')} {has} no usable segmentation"
        )
        if not are_skipped or self.count == num_annotations:
            index, error = self.first[0]
            way_out = "correct it" if self.count == 1 else "correct them"
            if self.count < num_annotations:
                way_out += ", or leave such annotations out by --skip_unusable"
            raise self.file.wrong(
                ("annotations", index, "segmentation", *error.path),
                rule=error.rule,
                way_out=f"{finding}: {way_out}",
            )
        paths = [("annotations", index, "segmentation", *error.path) for index, error in self.first]
        names = ", ".join(f"{self.file.owner(p)} ({self.file.shown(p)})" for p in paths)
        more = f" and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
        return (f"{finding} and {'is' if self.count == 1 else 'are'} left out: {names}{more}",)
