"""Edits of exported files as people make them, and the states that tests compare."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from maskformer import encode_mask
from pipeline.cli.__main__ import main
from pipeline.exchange.box_masks import row_runs
from pipeline.exchange.cvat_runs import encode_cvat_runs
from pipeline.exchange.label_studio_brush import decode_brush, encode_brush
from pipeline.reviews.reviewed import reviewed_segments
from pipeline.table.latest import latest_images, latest_segments

RELABELLED, DELETED, DRAWN = "a/0000.jpg", "b/0001.jpg", "c/0002.jpg"
"""Images of `draw_table`: two with segments, and one without."""
BOX = (1, 2, 3, 2)
"""Left, top, width and height of what is drawn."""


@dataclass(frozen=True, kw_only=True)
class HandMade:
    """The parts of a format that the tests need to change a file by hand."""

    name: str
    file: str
    edit: Callable[[Path], None]
    """Relabels the first segment of RELABELLED as tree, deletes the first one of DELETED, draws a
    car in DRAWN."""
    content: Callable[[Path], Mapping[str, list[tuple[str, str]]]]
    """Labels and run lengths by name of the image."""


def export(table: str, out: Path, name: str, *more: str) -> None:
    assert main(["export", table, str(out), "--format", name, "--images", "none", *more]) == 0


def take(table: str, file: Path, name: str, *more: str) -> int:
    return main(["import", str(file), "--format", name, "--table", table, *more])


def table_state(table: str, reviews: str | None = None) -> dict[str, list[tuple]]:
    """Label, run lengths, origin and score of each segment, by image."""
    if reviews is None:
        rows = latest_segments(table).read_all().to_pylist()
    else:
        rows = reviewed_segments(table, reviews).read_all().to_pylist()
    found: dict[str, list[tuple]] = {}
    for row in rows:
        state = (row["label"], row["rle"], row.get("origin", "model"), row["score"])
        found.setdefault(row["image_id"], []).append(state)
    return found


def expected_state(table: str, sizes: Mapping[str, tuple[int, int]]) -> dict[str, list[tuple]]:
    """The table's state after the edit."""
    state = table_state(table)
    _, rle, _, _ = state[RELABELLED][0]
    state[RELABELLED][0] = ("tree", rle, "human", None)
    del state[DELETED][0]
    state[DRAWN] = [("car", encode_mask(drawn_mask(sizes[DRAWN])), "human", None)]
    return state


def drawn_mask(size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = BOX
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def sizes_of(table: str) -> dict[str, tuple[int, int]]:
    rows = latest_images(table).read_all().to_pylist()
    return {row["image_id"]: (row["height"], row["width"]) for row in rows}


# COCO's instances


def edit_instances(file: Path) -> None:
    content = json.loads(file.read_text())
    ids = {image["table_image_id"]: image for image in content["images"]}
    category = {each["name"]: each["id"] for each in content["categories"]}
    first = next(a for a in content["annotations"] if a["image_id"] == ids[RELABELLED]["id"])
    first["category_id"] = category["tree"]
    first["score"] = 0.123
    gone = next(a for a in content["annotations"] if a["image_id"] == ids[DELETED]["id"])
    content["annotations"].remove(gone)
    drawn = ids[DRAWN]
    mask = drawn_mask((drawn["height"], drawn["width"]))
    content["annotations"].append(
        {
            "id": 9999, "image_id": drawn["id"], "category_id": category["car"], "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": encode_mask(mask)},
            "area": int(mask.sum()), "bbox": list(BOX),
        }
    )  # fmt: skip
    file.write_text(json.dumps(content))


def instances_content(file: Path) -> Mapping[str, list[tuple[str, str]]]:
    content = json.loads(file.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found: dict[int, list[tuple[str, str]]] = {each["id"]: [] for each in content["images"]}
    for each in content["annotations"]:
        found[each["image_id"]].append((names[each["category_id"]], each["segmentation"]["counts"]))
    return {each["file_name"]: sorted(found[each["id"]]) for each in content["images"]}


# COCO's panoptic maps


def edit_panoptic(file: Path) -> None:
    content = json.loads(file.read_text())
    ids = {image["table_image_id"]: image for image in content["images"]}
    category = {each["name"]: each["id"] for each in content["categories"]}
    of_image = {each["image_id"]: each for each in content["annotations"]}
    of_image[ids[RELABELLED]["id"]]["segments_info"][0]["category_id"] = category["tree"]
    changed = of_image[ids[DELETED]["id"]]
    gone = changed["segments_info"].pop(0)
    _paint(file.with_suffix("") / changed["file_name"], lambda map_: map_ == gone["id"], 0)
    changed = of_image[ids[DRAWN]["id"]]
    changed["segments_info"] = [{"id": 70000, "category_id": category["car"], "iscrowd": 0}]
    mask = drawn_mask((ids[DRAWN]["height"], ids[DRAWN]["width"]))
    _paint(file.with_suffix("") / changed["file_name"], lambda _: mask, 70000)
    file.write_text(json.dumps(content))


def _paint(png: Path, where: Callable[[np.ndarray], np.ndarray], value: int) -> None:
    map_ = _ids(png)
    map_[where(map_)] = value
    channels = np.stack([map_ >> shift & 255 for shift in (0, 8, 16)], -1)
    Image.fromarray(channels.astype(np.uint8), "RGB").save(png)


def _ids(png: Path) -> np.ndarray:
    channels = np.asarray(Image.open(png)).astype(np.int64)
    return channels @ [1, 256, 65536]


def panoptic_content(file: Path) -> Mapping[str, list[tuple[str, str]]]:
    content = json.loads(file.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = {}
    for each in content["annotations"]:
        map_ = _ids(file.with_suffix("") / each["file_name"])
        found[each["file_name"]] = sorted(
            (names[info["category_id"]], encode_mask(map_ == info["id"]))
            for info in each["segments_info"]
        )
    return found


# CVAT


def edit_cvat(file: Path) -> None:
    root = ElementTree.parse(file).getroot()
    images = {image.attrib["name"]: image for image in root.iter("image")}
    images[RELABELLED][0].attrib["label"] = "tree"
    images[DELETED].remove(images[DELETED][0])
    left, top, width, height = BOX
    runs = encode_cvat_runs(np.ones((height, width), bool))
    mask = ElementTree.SubElement(images[DRAWN], "mask", {
        "label": "car", "source": "manual", "occluded": "0", "rle": ", ".join(map(str, runs)),
        "left": str(left), "top": str(top), "width": str(width), "height": str(height),
        "z_order": "0",
    })  # fmt: skip
    # As CVAT exports a task whose labels have attributes, in reverse order of its frames.
    ElementTree.SubElement(mask, "attribute", {"name": "parked"}).text = "true"
    ElementTree.SubElement(images[DRAWN], "tag", {"label": "tree", "source": "manual"})
    meta = root.find("meta")
    assert meta is not None
    for who in ("owner", "assignee"):
        tag = ElementTree.SubElement(meta[0], who)
        ElementTree.SubElement(tag, "username").text = f"{who} of the task"
    for image in images.values():
        root.remove(image)
    root.extend(reversed(images.values()))
    ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def cvat_content(file: Path) -> Mapping[str, list[tuple[str, str]]]:
    root = ElementTree.parse(file).getroot()
    return {
        image.attrib["name"]: sorted(
            (mask.attrib["label"], "|".join(mask.attrib[key] for key in ("rle", "left", "top")))
            for mask in image.iter("mask")
        )
        for image in root.iter("image")
    }


# Label Studio


def edit_label_studio(file: Path) -> None:
    tasks = json.loads(file.read_text())
    for number, task in enumerate(tasks):
        # As Label Studio exports a project: predictions copied to annotations where a person saved.
        [prediction] = task["predictions"]
        task["id"] = 100 + number
        results = json.loads(json.dumps(prediction["result"]))
        name = task["data"]["table_image_id"]
        size = {"height": task["data"]["height"], "width": task["data"]["width"]}
        if name == RELABELLED:
            results[0]["value"]["brushlabels"] = ["tree"]
        elif name == DELETED:
            results = results[1:]
        elif name == DRAWN:
            mask = drawn_mask((size["height"], size["width"]))
            results = [brush_result(mask, "car")]
        else:
            continue
        cancelled = {"was_cancelled": True, "result": [], "created_at": "2026-12-01"}
        older = {"result": [], "created_at": "2026-10-01", "completed_by": 1}
        task["annotations"] = [
            {"result": results, "created_at": "2026-11-01", "completed_by": {"email": "a@b.c"}},
            older,
            cancelled,
        ]
    file.write_text(json.dumps(tasks))


def brush_result(mask: np.ndarray, label: str) -> dict[str, Any]:
    height, width = mask.shape
    runs = row_runs(mask, left=0, top=0, width=width)
    return {
        "id": "x1", "type": "brushlabels", "from_name": "label", "to_name": "image",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {
            "format": "rle", "rle": encode_brush(runs, height=height, width=width),
            "brushlabels": [label],
        },
    }  # fmt: skip


def label_studio_content(file: Path) -> Mapping[str, list[tuple[str, str]]]:
    found = {}
    for task in json.loads(file.read_text()):
        chosen = task["annotations"][0] if task.get("annotations") else task["predictions"][0]
        found[task["data"]["table_image_id"]] = sorted(
            (
                each["value"]["brushlabels"][0],
                encode_mask(
                    decode_brush(
                        each["value"]["rle"],
                        height=each["original_height"],
                        width=each["original_width"],
                    )
                ),
            )
            for each in chosen["result"]
        )
    return found


FORMATS = [
    HandMade(
        name="coco_instances", file="annotations/instances_default.json", edit=edit_instances,
        content=instances_content,
    ),
    HandMade(
        name="coco_panoptic", file="annotations/panoptic_default.json", edit=edit_panoptic,
        content=panoptic_content,
    ),
    HandMade(name="cvat", file="annotations.xml", edit=edit_cvat, content=cvat_content),
    HandMade(
        name="label_studio", file="tasks.json", edit=edit_label_studio,
        content=label_studio_content,
    ),
]  # fmt: skip


def without_carried(file: Path) -> None:
    """Removes what our exports carry for imports, as tools do that rewrite a file."""

    def cut(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if not key.startswith("table_")}

    file.write_text(json.dumps(json.loads(file.read_text(), object_hook=cut)))
