"""COCO's panoptic format: a JSON of images and segments, and a folder of PNGs with segment ids.

A segment's id is spread over red, green and blue. Category ids have gaps; labels are numbered in
the order in which the JSON lists its categories.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.coco_entries import (
    Categories,
    Category,
    images_by_id,
    refuse_twice,
    unknown_id,
)
from pipeline.datasets.coco_json import CocoFile, Flag, Id, is_set
from pipeline.datasets.data_location import LOCATION, DataLocation
from pipeline.datasets.dataset import LabelledImages, rows_schema, where
from pipeline.datasets.label_maps import file_location
from pipeline.datasets.maps import decode_id_map
from pipeline.datasets.named_files import NamedFiles
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import Described, Labels, Target, id_map_target
from pipeline.storage import Storage

SEGMENTS_INFO = pa.list_(
    pa.struct([("id", pa.int64()), ("label_id", pa.int32()), ("is_crowd", pa.bool_())])
)
"""What is said of the segments of an id map: the fields of `Described`."""

_SCHEMA = rows_schema(("map", LOCATION), ("segments", SEGMENTS_INFO))


@dataclass(frozen=True, kw_only=True)
class IdMapTruth:
    """A map of segment ids for each image, and a list of what they are."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        place = DataLocation(**row["map"])
        name = where(row, place)
        described = [Described(**segment) for segment in row["segments"]]
        known = {segment.id for segment in described}
        ids = decode_id_map(place.read(storage), place=name, described=known)
        return id_map_target(ids, described, labels=labels, place=name)


class _Image(msgspec.Struct, frozen=True, gc=False):
    id: Id
    file_name: str


class _Segment(msgspec.Struct, frozen=True, gc=False):
    id: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    category_id: Id
    iscrowd: Flag = None


class _Annotation(msgspec.Struct, frozen=True):
    image_id: Id
    file_name: str
    segments_info: list[_Segment]


class _Content(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Category]


def open_coco_panoptic(
    settings: DatasetSettings, *, file: CocoFile, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    """The images that the JSON has annotations of, in its order.

    Raises:
        LabelError: the JSON is no such JSON, or names a file that is not there.
    """
    refuse_label_map_settings(settings, because="COCO's JSON")
    content = file.read_as(_Content)
    annotations = content.annotations
    images = images_by_id(file, content.images)
    categories = Categories.of(
        file, content.categories, used={s.category_id for a in annotations for s in a.segments_info}
    )
    photos = NamedFiles.of_photographs(
        settings, names=[i.file_name for i in content.images], uri=file.uri, storage=storage
    )
    maps = NamedFiles.of_maps(
        settings, names=[a.file_name for a in annotations], uri=file.uri, storage=storage
    )
    rows: list[dict[str, Any]] = []
    for index, annotation in enumerate(annotations):
        image = images.get(annotation.image_id)
        if image is None:
            path = ("annotations", index, "image_id")
            raise unknown_id(file, path, annotation.image_id, known=images)
        rows.append(
            {
                "image_id": image.file_name,
                "image": asdict(file_location(photos.file(image.file_name))),
                "map": asdict(file_location(maps.file(annotation.file_name))),
                "segments": _described(file, index, annotation, categories=categories),
            }
        )
    for name, column, what in (
        ("image_id", "image", "an image that no other annotation is of"),
        ("file_name", "map", "a map of its own"),
    ):
        refuse_twice(
            file,
            [("annotations", index, name) for index in range(len(rows))],
            [row[column]["uri"] for row in rows],
            rule=f"must be {what}",
        )
    return LabelledImages(
        uri=file.uri,
        kind="coco_panoptic",
        truths="segments",
        labels=categories.labels,
        rows=pa.Table.from_pylist(rows, schema=_SCHEMA),
        truth=IdMapTruth(),
        storage=storage,
        reading=reading,
        notes=(
            *photos.notes,
            *maps.notes,
            *categories.notes,
            *_left_out(len(images) - len(rows), num_images=len(images)),
        ),
    )


def _described(
    file: CocoFile, index: int, annotation: _Annotation, *, categories: Categories
) -> list[dict[str, Any]]:
    """What the JSON says of the segments of a map."""
    described = []
    for place, segment in enumerate(annotation.segments_info):
        path = ("annotations", index, "segments_info", place)
        described.append(
            {
                "id": segment.id,
                "label_id": categories.label_id(file, (*path, "category_id"), segment.category_id),
                "is_crowd": is_set(file, (*path, "iscrowd"), segment.iscrowd),
            }
        )
    return described


def _left_out(count: int, *, num_images: int) -> Iterator[str]:
    if count:
        yield f"{count:,} of {num_images:,} images have no annotation and are left out"


def refuse_label_map_settings(settings: DatasetSettings, *, because: str) -> None:
    """What says how label maps are found and read has no effect where there are none."""
    settings.refuse(
        "image_suffix", "map_suffix", "label_members", "label_column", "labels", "ignore_index",
        "reduce_labels", "skip_unlabelled", because=because,
    )  # fmt: skip
