"""COCO's instance format: a JSON of images and of polygons or run lengths, one per object.

Objects may overlap. A target keeps the whole mask of each, as run lengths; in its map small ones
lie on top of large ones.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from maskformer import decode_rle
from pipeline.corpora.reading import ReadSettings
from pipeline.labelled.coco_panoptic import (
    Categories,
    check_entries,
    read_json,
    refuse_label_map_settings,
)
from pipeline.labelled.dataset import LabelledImages, rows_schema
from pipeline.labelled.label_maps import place_of
from pipeline.labelled.named_files import NamedFiles
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import LabelError, Labels, Target, TrueSegment
from pipeline.storage import Storage

_SCHEMA = rows_schema(
    ("height", pa.int32()),
    ("width", pa.int32()),
    (
        "objects",
        pa.list_(
            pa.struct(
                [
                    ("label_id", pa.int32()),
                    ("is_crowd", pa.bool_()),
                    ("area", pa.float64()),
                    ("segmentation", pa.string()),  # JSON, as COCO has it
                ]
            )
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class InstanceTruth:
    """The outlines of each image's objects."""

    uri: str
    """Of the JSON, for messages."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        height, width = row["height"], row["width"]
        place = f"image {row['image_id']}, objects in {self.uri}"
        rles = [
            _rle(json.loads(each["segmentation"]), height=height, width=width, place=place)
            for each in row["objects"]
        ]
        try:
            masks = [decode_rle(rle, height=height, width=width) for rle in rles]
        except ValueError as error:
            raise LabelError(f"{place}: {error}") from error
        ids = np.zeros((height, width), np.min_scalar_type(len(masks)))
        for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
            ids[masks[index]] = index + 1
        return Target(
            ids=ids,
            segments=tuple(
                TrueSegment(
                    id=number,
                    label_id=each["label_id"],
                    is_crowd=each["is_crowd"],
                    rle=rle,
                    area=each["area"],
                )
                for number, (each, rle) in enumerate(zip(row["objects"], rles, strict=True), 1)
            ),
        )


def open_coco_instances(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings
) -> LabelledImages:
    """The images that the JSON lists, in its order, those without objects too.

    Raises:
        LabelError: the JSON is no such JSON, or names a file that is not there.
    """
    settings.refuse("maps", because="COCO's instances")
    refuse_label_map_settings(settings, because="COCO's JSON")
    uri = storage.absolute(settings.dataset)
    said = read_json(uri, storage=storage)
    categories = Categories.of(said, place=uri)
    check_entries(said["images"], "id", "file_name", "height", "width", place=uri)
    check_entries(said["annotations"], "image_id", "category_id", "segmentation", place=uri)
    photos = NamedFiles.of_photographs(
        settings, names=[i["file_name"] for i in said["images"]], uri=uri, storage=storage
    )
    names = {image["id"]: image["file_name"] for image in said["images"]}
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in said["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in names:
            raise LabelError(f"{uri}: image {image_id} has objects and is not listed")
        objects[image_id].append(
            {
                "label_id": categories.label_id(annotation["category_id"], place=names[image_id]),
                "is_crowd": bool(annotation.get("iscrowd", 0)),
                "area": annotation.get("area"),
                "segmentation": json.dumps(annotation["segmentation"]),
            }
        )
    rows = [
        {
            "image_id": image["file_name"],
            "image": asdict(place_of(photos.file(image["file_name"]))),
            "height": image["height"],
            "width": image["width"],
            "objects": objects[image["id"]],
        }
        for image in said["images"]
    ]
    return LabelledImages(
        uri=uri,
        kind="coco_instances",
        truths="instances",
        labels=categories.labels,
        rows=pa.Table.from_pylist(rows, schema=_SCHEMA),
        truth=InstanceTruth(uri=uri),
        storage=storage,
        reading=reading,
        notes=photos.notes,
    )


def _rle(segmentation: Any, *, height: int, width: int, place: str) -> str:
    """COCO's compressed counts of a list of polygons, or of run lengths."""
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        is_outline = segmentation and all(
            isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
            for points in segmentation
        )
        if not is_outline:
            raise LabelError(f"{place}: a polygon must be [x, y, x, y, x, y, ...]")
        compressed = coco.merge(coco.frPyObjects(segmentation, height, width))
    else:
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if size != [height, width]:
            raise LabelError(f"{place}: run lengths must be of size {[height, width]}, got {size}")
        if isinstance(segmentation["counts"], str):
            return segmentation["counts"]
        if sum(segmentation["counts"]) != height * width:
            raise LabelError(f"{place}: run lengths must add up to {height} x {width} pixels")
        compressed = coco.frPyObjects(segmentation, height, width)
    return compressed["counts"].decode("ascii")
