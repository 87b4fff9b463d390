"""Opens COCO's panoptic format: a JSON of images and segments, and PNGs with segment ids.

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
    Image,
    images_by_id,
    refuse_twice,
    unknown_id,
)
from pipeline.datasets.coco_json import CocoFile, Flag, Id, is_set
from pipeline.datasets.data_location import LOCATION, DataLocation
from pipeline.datasets.dataset import LabelledImages, rows_schema
from pipeline.datasets.maps import read_id_map
from pipeline.datasets.named_files import NamedFiles
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import Labels, SegmentInfo, Target
from pipeline.runtime.wording import count
from pipeline.storage import Storage

SEGMENTS_INFO = pa.list_(
    pa.struct([("id", pa.int64()), ("label_id", pa.int32()), ("is_crowd", pa.bool_())])
)
"""The type of a column of segment descriptions, with the fields of `SegmentInfo`."""

_SCHEMA = rows_schema(("map", LOCATION), ("segments", SEGMENTS_INFO))


@dataclass(frozen=True, kw_only=True)
class IdMapTruth:
    """Reads a map of segment ids for each image; the table's rows describe the segments."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        segments = [SegmentInfo(**segment) for segment in row["segments"]]
        return read_id_map(row, segments, labels=labels, storage=storage)


class _Segment(msgspec.Struct, frozen=True, gc=False):
    id: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    category_id: Id
    iscrowd: Flag = None


class _Annotation(msgspec.Struct, frozen=True):
    image_id: Id
    file_name: str
    segments_info: list[_Segment]


class _Content(msgspec.Struct, frozen=True):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category]


def open_coco_panoptic(
    settings: DatasetSettings, *, file: CocoFile, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    """Opens the images that the JSON has annotations of, in its order.

    Raises:
        LabelError: the JSON is no such JSON, or names a file that is not there.
    """
    refuse_label_map_settings(settings, because="COCO's JSON")
    content = file.read_as(_Content)
    annotations = content.annotations
    names = {key: str(image.file_name) for key, image in images_by_id(file, content.images).items()}
    categories = Categories.of(
        file, content.categories, used={s.category_id for a in annotations for s in a.segments_info}
    )
    photos = NamedFiles.of_photographs(
        settings, names=[*names.values()], uri=file.uri, storage=storage
    )
    maps = NamedFiles.of_maps(
        settings, names=[a.file_name for a in annotations], uri=file.uri, storage=storage
    )
    rows: list[dict[str, Any]] = []
    for index, annotation in enumerate(annotations):
        name = names.get(annotation.image_id)
        if name is None:
            path = ("annotations", index, "image_id")
            raise unknown_id(file, path, annotation.image_id, known=names)
        rows.append(
            {
                "image_id": name,
                "image": asdict(DataLocation.of_file(photos.file(name))),
                "map": asdict(DataLocation.of_file(maps.file(annotation.file_name))),
                "segments": _segments(file, index, annotation, categories=categories),
            }
        )
    for key, column, what in (
        ("image_id", "image", "an image that no other annotation is of"),
        ("file_name", "map", "a map of its own"),
    ):
        refuse_twice(
            file,
            [("annotations", index, key) for index in range(len(rows))],
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
            *_left_out(len(names) - len(rows), num_images=len(names)),
        ),
    )


def _segments(
    file: CocoFile, index: int, annotation: _Annotation, *, categories: Categories
) -> list[dict[str, Any]]:
    """Returns the descriptions of a map's segments, with the fields of `SegmentInfo`."""
    segments = []
    for number, segment in enumerate(annotation.segments_info):
        path = ("annotations", index, "segments_info", number)
        segments.append(
            {
                "id": segment.id,
                "label_id": categories.label_id(file, (*path, "category_id"), segment.category_id),
                "is_crowd": is_set(file, (*path, "iscrowd"), segment.iscrowd),
            }
        )
    return segments


def _left_out(number: int, *, num_images: int) -> Iterator[str]:
    if number:
        verbs = ("has", "is") if number == 1 else ("have", "are")
        of_images = f"{number:,} of {count(num_images, 'image')}"
        yield f"{of_images} {verbs[0]} no annotation and {verbs[1]} left out"


def refuse_label_map_settings(settings: DatasetSettings, *, because: str) -> None:
    """Raises ValueError for settings of label maps, which have no effect on other data."""
    settings.refuse(
        "image_suffix", "map_suffix", "label_members", "label_column", "labels", "ignore_index",
        "reduce_labels", "skip_unlabelled", because=because,
    )  # fmt: skip
