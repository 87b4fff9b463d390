"""COCO's panoptic format: a JSON of images and segments, and a folder of PNGs with segment ids.

A segment's id is spread over red, green and blue. Category ids have gaps; labels are numbered in
the order in which the JSON lists its categories.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.corpora.reading import ReadSettings
from pipeline.labelled.dataset import LabelledImages, rows_schema, where
from pipeline.labelled.label_maps import place_of
from pipeline.labelled.maps import decode_id_map
from pipeline.labelled.named_files import NamedFiles
from pipeline.labelled.places import PLACE, Place
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import Described, LabelError, Labels, Target, id_map_target
from pipeline.storage import Storage

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
        described = [Described(**segment) for segment in row["segments"]]
        known = {segment.id for segment in described}
        ids = decode_id_map(place.read(storage), place=name, described=known)
        return id_map_target(ids, described, labels=labels, place=name)


def open_coco_panoptic(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    """The images that the JSON has annotations of, in its order.

    Raises:
        LabelError: the JSON is no such JSON, or names a file that is not there.
    """
    refuse_label_map_settings(settings, because="COCO's JSON")
    uri = storage.absolute(settings.dataset)
    said = read_json(uri, storage=storage)
    categories = Categories.of(said, place=uri)
    check_entries(said["images"], "id", "file_name", place=uri)
    check_entries(said["annotations"], "image_id", "file_name", "segments_info", place=uri)
    images = {image["id"]: image for image in said["images"]}
    photos = NamedFiles.of_photographs(
        settings, names=[i["file_name"] for i in said["images"]], uri=uri, storage=storage
    )
    maps = NamedFiles.of_maps(
        settings, names=[a["file_name"] for a in said["annotations"]], uri=uri, storage=storage
    )
    rows = []
    for annotation in said["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise LabelError(f"{uri}: image {annotation['image_id']} is annotated and not listed")
        photo = photos.file(image["file_name"])
        check_entries(annotation["segments_info"], "id", "category_id", place=photo.uri)
        rows.append(
            {
                "image_id": image["file_name"],
                "image": asdict(place_of(photo)),
                "map": asdict(place_of(maps.file(annotation["file_name"]))),
                "segments": [
                    {
                        "id": segment["id"],
                        "label_id": categories.label_id(segment["category_id"], place=photo.uri),
                        "is_crowd": bool(segment.get("iscrowd", 0)),
                    }
                    for segment in annotation["segments_info"]
                ],
            }
        )
    return LabelledImages(
        uri=uri,
        kind="coco_panoptic",
        truths="segments",
        labels=categories.labels,
        rows=pa.Table.from_pylist(rows, schema=_SCHEMA),
        truth=IdMapTruth(),
        storage=storage,
        reading=reading,
        notes=(*photos.notes, *maps.notes),
    )


def read_json(uri: str, *, storage: Storage) -> dict[str, Any]:
    """COCO's JSON, with what both formats must have.

    Raises:
        LabelError: it is not there, no JSON, or not COCO's.
    """
    try:
        said = json.loads(storage.read(uri))
    except FileNotFoundError:
        raise LabelError(f"there is no file {uri}") from None
    except ValueError as error:
        raise LabelError(f"{uri} must be JSON, and is not: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(said, dict) or not all(isinstance(said.get(key), list) for key in wanted):
        raise LabelError(f"{uri} must be COCO's JSON, with lists of {', '.join(wanted)}")
    if not said["images"] or not said["annotations"]:
        raise LabelError(f"{uri} lists no images with annotations")
    return said


def check_entries(entries: Sequence[Any], *fields: str, place: str) -> None:
    """Raises LabelError where an entry of a list in the JSON lacks a field."""
    for entry in entries:
        lacking = [f for f in fields if not isinstance(entry, dict) or f not in entry]
        if lacking:
            raise LabelError(f"{place}: {lacking[0]} is missing in {json.dumps(entry)[:100]}")


def refuse_label_map_settings(settings: DatasetSettings, *, because: str) -> None:
    """What says how label maps are found and read has no effect where there are none."""
    settings.refuse(
        "image_suffix", "map_suffix", "label_members", "label_column", "labels", "ignore_index",
        "reduce_labels", "skip_unlabelled", because=because,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Labels, and which category is which."""

    labels: Labels
    ids: Mapping[int, int]
    """Label ids by category id."""

    @classmethod
    def of(cls, said: Mapping[str, Any], *, place: str) -> "Categories":
        categories = said["categories"]
        check_entries(categories, "id", "name", place=place)
        ids = {category["id"]: label for label, category in enumerate(categories)}
        if not categories or len(ids) < len(categories):
            raise LabelError(f"{place}: categories need ids of their own, and at least one")
        return cls(
            labels=Labels(
                names=tuple(str(category["name"]) for category in categories),
                # Instances have no `isthing`: all are things.
                things=frozenset(
                    label for label, c in enumerate(categories) if c.get("isthing", 1)
                ),
            ),
            ids=ids,
        )

    def label_id(self, category_id: int, *, place: str) -> int:
        if category_id not in self.ids:
            raise LabelError(f"image {place}: category {category_id} is not among the categories")
        return self.ids[category_id]
