"""Drawn scenes with their truth, written down in every format that is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table
from corpora import parquet, put, tar
from PIL import Image
from specs import panoptic_spec

from maskformer import encode_mask, encode_segments
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore

LABELS = ("road", "sky", "tree", "car")
THINGS = (2, 3)
IGNORED = 255
_HEIGHT, _WIDTH = 36, 48


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A photograph, the id of each pixel's segment, and the label of each segment."""

    name: str
    photo: Image.Image
    ids: np.ndarray
    """0 is void."""
    label_of: Mapping[int, int]

    @property
    def label_map(self) -> np.ndarray:
        labels = np.full(self.ids.shape, IGNORED, np.uint8)
        for segment_id, label in self.label_of.items():
            labels[self.ids == segment_id] = label
        return labels

    @property
    def jpeg(self) -> bytes:
        return encode_image(self.photo, "JPEG")


def scenes(count: int = 3) -> list[Scene]:
    """Sky above a road, two cars and a tree, a strip of void, and a light that differs."""
    return [_scene(seed) for seed in range(count)]


def _scene(seed: int) -> Scene:
    random = np.random.default_rng(seed)
    horizon = int(random.integers(12, 20))
    ids = np.full((_HEIGHT, _WIDTH), 2, np.int32)
    ids[horizon:] = 1
    ids[horizon - 6 : horizon + 6, 4:12] = 3
    ids[26:32, 16 + seed : 26 + seed] = 4
    ids[24:34, 30:44] = 5
    ids[:, -2:] = 0
    colours = random.integers(40, 255, (6, 3))
    return Scene(
        name=f"scene-{seed}",
        photo=Image.fromarray(colours[ids].astype(np.uint8)),
        ids=ids,
        label_of={1: 0, 2: 1, 3: 2, 4: 3, 5: 3},
    )


def names_json(**others: object) -> bytes:
    things = [LABELS[label] for label in THINGS]
    said = {"labels": list(LABELS), "things": things, "ignore_index": IGNORED, **others}
    return json.dumps(said).encode()


def label_maps(drawn: list[Scene]) -> dict[str, bytes]:
    """Draws a data set in the layout of ADE20K: images/ and annotations/, with folders inside."""
    files = {"labels.json": names_json()}
    for scene in drawn:
        files[f"images/val/{scene.name}.jpg"] = scene.jpeg
        files[f"annotations/val/{scene.name}.png"] = encode_image(scene.label_map)
    return files


def shards(drawn: list[Scene]) -> dict[str, bytes]:
    """Label maps in two tars."""
    parts = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    return {"labels.json": names_json()} | {
        f"part-{number}.tar": tar(
            member
            for scene in part
            for member in (
                (f"{scene.name}.jpg", scene.jpeg),
                (f"{scene.name}.png", encode_image(scene.label_map)),
            )
        )
        for number, part in enumerate(parts)
    }


def panoptic_shards(drawn: list[Scene]) -> dict[str, bytes]:
    """Maps of segment ids in a tar, with a JSON beside each."""
    members = []
    for scene in drawn:
        said = {"segments_info": segments_info(scene)}
        members += [
            (f"{scene.name}.jpg", scene.jpeg),
            (f"{scene.name}.png", encode_image(scene.ids.astype(np.uint16))),
            (f"{scene.name}.json", json.dumps(said).encode()),
        ]
    return {"labels.json": names_json(), "all.tar": tar(members)}


def parquet_rows(drawn: list[Scene]) -> dict[str, bytes]:
    """Label maps in rows, some rows to a group."""
    columns = {
        "image": [scene.jpeg for scene in drawn],
        "label": [encode_image(scene.label_map) for scene in drawn],
    }
    return {"labels.json": names_json(), "rows.parquet": parquet(columns, rows_per_group=2)}


def panoptic_rows(drawn: list[Scene]) -> dict[str, bytes]:
    columns = {
        "image": [scene.jpeg for scene in drawn],
        "label": [encode_image(scene.ids.astype(np.uint8)) for scene in drawn],
        "segments_info": [segments_info(scene) for scene in drawn],
    }
    return {"labels.json": names_json(), "rows.parquet": parquet(columns)}


def segments_info(scene: Scene) -> list[dict[str, int]]:
    return [
        {"id": segment_id, "label_id": label, "iscrowd": 0}
        for segment_id, label in scene.label_of.items()
    ]


def coco_panoptic(drawn: list[Scene]) -> dict[str, bytes]:
    """Category ids with gaps, and segment ids over three channels."""
    files = {}
    annotations = []
    for number, scene in enumerate(drawn):
        ids = np.where(scene.ids > 0, scene.ids * 70_001, 0)
        channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        files[f"val/{scene.name}.jpg"] = scene.jpeg
        files[f"annotations/panoptic_val/{scene.name}.png"] = encode_image(channels)
        annotations.append(
            {
                "image_id": number,
                "file_name": f"{scene.name}.png",
                "segments_info": [
                    {"id": segment_id * 70_001, "category_id": _category(label), "iscrowd": 0}
                    for segment_id, label in scene.label_of.items()
                ],
            }
        )
    said = {"images": _images(drawn), "annotations": annotations, "categories": _categories()}
    return files | {"annotations/panoptic_val.json": json.dumps(said).encode()}


def coco_instances(drawn: list[Scene]) -> dict[str, bytes]:
    """The things alone, as run lengths."""
    files = {}
    annotations = []
    for number, scene in enumerate(drawn):
        files[f"val/{scene.name}.jpg"] = scene.jpeg
        for segment_id, label in scene.label_of.items():
            if label in THINGS:
                mask = scene.ids == segment_id
                annotations.append(
                    {
                        "image_id": number,
                        "category_id": _category(label),
                        "iscrowd": 0,
                        "area": int(mask.sum()),
                        "segmentation": {
                            "size": list(mask.shape),
                            "counts": encode_mask(mask),
                        },
                    }
                )
    categories = [each for each in _categories() if each["isthing"]]
    said = {"images": _images(drawn), "annotations": annotations, "categories": categories}
    return files | {"annotations/instances_val.json": json.dumps(said).encode()}


def _images(drawn: list[Scene]) -> list[dict[str, object]]:
    return [
        {
            "id": number,
            "file_name": f"{scene.name}.jpg",
            "height": scene.ids.shape[0],
            "width": scene.ids.shape[1],
        }
        for number, scene in enumerate(drawn)
    ]


def _category(label: int) -> int:
    return 10 + 3 * label


def _categories() -> list[dict[str, object]]:
    return [
        {"id": _category(label), "name": name, "isthing": int(label in THINGS)}
        for label, name in enumerate(LABELS)
    ]


def write_table(folder: Path, drawn: list[Scene]) -> str:
    """A segment table of the scenes, all true, over photographs beside it; gives its place."""
    photos = folder / "photos"
    put(photos, {f"{scene.name}.jpg": scene.jpeg for scene in drawn})
    store = TableStore(str(folder / "table"), Storage())
    store.create(
        panoptic_spec(*LABELS, label_ids_to_fuse=tuple(set(range(len(LABELS))) - set(THINGS)))
    )
    images = [
        {
            "image_id": f"{scene.name}.jpg",
            "uri": str(photos / f"{scene.name}.jpg"),
            "etag": Storage().file(str(photos / f"{scene.name}.jpg")).etag,
            "unit_id": "u",
            "position": position,
            "height": scene.ids.shape[0],
            "width": scene.ids.shape[1],
            "status": "ok",
            "num_segments": len(scene.label_of),
        }
        for position, scene in enumerate(drawn)
    ]
    rows = [row for scene in drawn for row in _segment_rows(scene)]
    for part, schema, these in (("segments", SEGMENTS, rows), ("images", IMAGES, images)):
        content = encode_table(pa.Table.from_pylist(these, schema=schema))
        store.storage.write(store.file(part, "u.parquet"), content)
    return store.uri


def _segment_rows(scene: Scene) -> Iterator[dict[str, object]]:
    shapes = encode_segments(scene.ids)
    for segment_id, area, rle in zip(shapes.ids, shapes.areas, shapes.rles, strict=True):
        label = scene.label_of[int(segment_id)]
        yield {
            "image_id": f"{scene.name}.jpg",
            "segment_id": int(segment_id),
            "label_id": label,
            "label": LABELS[label],
            "is_thing": label in THINGS,
            "score": 1.0,
            "area": int(area),
            "height": scene.ids.shape[0],
            "width": scene.ids.shape[1],
            "rle": rle,
        }


def overlapping_objects() -> list[tuple[np.ndarray, str, bool]]:
    """Mask, label and whether it is a crowd, of one image of 36 x 48: a tree with a car before it,
    two trees alike, a car under a crowd of cars, which also lies where nothing else is."""
    boxes = [
        ("tree", (2, 2, 22, 26), False), ("car", (8, 10, 16, 20), False),
        ("tree", (20, 24, 34, 40), False), ("tree", (20, 24, 34, 40), False),
        ("car", (4, 34, 14, 46), False), ("car", (5, 30, 12, 44), True),
    ]  # fmt: skip
    objects = []
    for label, (top, left, bottom, right), is_crowd in boxes:
        mask = np.zeros((_HEIGHT, _WIDTH), bool)
        mask[top:bottom, left:right] = True
        objects.append((mask, label, is_crowd))
    return objects


def coco_objects(
    objects: list[tuple[np.ndarray, str, bool]], photo: Image.Image | None = None
) -> dict[str, bytes]:
    """Draws one image in COCO's instance format, its objects as run lengths."""
    height, width = objects[0][0].shape
    names = ("tree", "car")
    said = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": names.index(label) + 1,
                "iscrowd": int(is_crowd),
                "area": int(mask.sum()),
                "segmentation": {"size": [height, width], "counts": encode_mask(mask)},
            }
            for number, (mask, label, is_crowd) in enumerate(objects, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    photo = photo or scenes(1)[0].photo.resize((width, height))
    return {
        "images/a.jpg": encode_image(photo, "JPEG"),
        "instances.json": json.dumps(said).encode(),
    }
