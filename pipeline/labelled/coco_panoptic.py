"""COCO's panoptic format: a JSON of images and segments, and a folder of PNGs with segment ids.

A segment's id is spread over red, green and blue. Category ids have gaps; labels are numbered in
the order in which the JSON lists its categories.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from pipeline.corpora.reading import ReadSettings
from pipeline.labelled.coco_entries import (
    Categories,
    Category,
    images_by_id,
    refuse_twice,
    unknown_id,
)
from pipeline.labelled.coco_json import CocoFile, Flag, Id, is_set
from pipeline.labelled.dataset import LabelledImages, rows_schema, where
from pipeline.labelled.label_maps import place_of
from pipeline.labelled.maps import decode_id_map
from pipeline.labelled.places import PLACE, Place
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import Described, LabelError, Labels, Target, id_map_target
from pipeline.storage import File, Storage, join

SEGMENTS_INFO = pa.list_(
    pa.struct([("id", pa.int64()), ("label_id", pa.int32()), ("is_crowd", pa.bool_())])
)
"""What is said of the segments of an id map: the fields of `Described`."""

_SCHEMA = rows_schema(("map", PLACE), ("segments", SEGMENTS_INFO))


@dataclass(frozen=True, kw_only=True)
class IdMapTruth:
    """A map of segment ids for each image, and a list of what they are."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        place = Place(**row["map"])
        name = where(row, place)
        return id_map_target(
            decode_id_map(place.read(storage), place=name),
            [Described(**segment) for segment in row["segments"]],
            labels=labels,
            place=name,
        )


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
    photos = CocoFolder.of_images(
        settings, names=[image.file_name for image in content.images], file=file, storage=storage
    )
    stem = file.uri.rpartition("/")[2].removesuffix(".json")
    maps = CocoFolder.find(
        [settings.maps] if settings.maps else [join(file.uri.rpartition("/")[0], stem)],
        example=annotations[0].file_name,
        option="maps",
        storage=storage,
    )
    rows = []
    for index, annotation in enumerate(annotations):
        image = images.get(annotation.image_id)
        if image is None:
            path = ("annotations", index, "image_id")
            raise unknown_id(file, path, annotation.image_id, known=images)
        rows.append(
            {
                "image_id": image.file_name,
                "image": asdict(place_of(photos.file(image.file_name))),
                "map": asdict(place_of(maps.file(annotation.file_name))),
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
        notes=(*categories.notes, *_left_out(len(images) - len(rows), num_images=len(images))),
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
        "reduce_labels", because=because,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CocoFolder:
    """The files of a folder that a JSON names, by one listing."""

    uri: str
    files: Mapping[str, File]
    option: str

    @classmethod
    def of_images(
        cls, settings: DatasetSettings, *, names: Sequence[str], file: CocoFile, storage: Storage
    ) -> "CocoFolder":
        """The folder of the photographs: as set, or where COCO keeps it."""
        folder, _, name = file.uri.rpartition("/")
        split = name.removesuffix(".json").rpartition("_")[2]  # instances_val2017 -> val2017
        usual = [
            join(base, each)
            for base in (folder, folder.rpartition("/")[0])
            for each in (split, f"images/{split}", "images", "input_images")
        ]
        return cls.find(
            [settings.images] if settings.images else [*usual, folder],
            example=names[0],
            option="images",
            storage=storage,
        )

    @classmethod
    def find(
        cls, places: Sequence[str], *, example: str, option: str, storage: Storage
    ) -> "CocoFolder":
        """The first of the places that holds the example."""
        for place in map(storage.absolute, places):
            if storage.file(join(place, example)) is not None:
                return cls(uri=place, files=dict(_by_name(place, storage=storage)), option=option)
        others = f" or the {len(places) - 1} other usual places" if len(places) > 1 else ""
        raise LabelError(
            f"there is no {example} in {places[0]}{others}; name its folder by --{option}"
        )

    def file(self, name: str) -> File:
        if name not in self.files:
            raise LabelError(
                f"image {name} is named in the JSON, and {join(self.uri, name)} is not there; "
                f"see --{self.option}"
            )
        return self.files[name]


def _by_name(folder: str, *, storage: Storage) -> Iterator[tuple[str, File]]:
    for file in storage.files(folder):
        yield file.uri.removeprefix(f"{folder}/"), file
