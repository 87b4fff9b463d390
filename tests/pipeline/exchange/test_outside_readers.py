"""Each export, read by the libraries that people read it with: every segment, pixel for pixel."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_tables import LABELS, Drawn, draw, exported, read_by, sure_masks
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskformer import decode_rle
from pipeline.runtime.exit_codes import ExitCode


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def folders(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export in each format."""
    root = tmp_path_factory.mktemp("exports")
    formats = ("coco_panoptic", "coco_instances", "label_maps", "yolo", "hf", "webdataset")
    for format in formats:
        assert exported(drawn, root / format, format) == ExitCode.DONE
    return {format: root / format for format in formats}


def ids_by_stem(folder: Path, json_name: str) -> dict[str, str]:
    images = json.loads((folder / json_name).read_bytes())["images"]
    return {each["file_name"].rpartition(".")[0]: each["table_image_id"] for each in images}


def masks_of(drawn: Drawn) -> dict[str, list[list[Any]]]:
    return {image_id: sure_masks(segments) for image_id, segments in drawn.truth.items()}


def test_the_drawn_table_has_what_trips_importers(drawn: Drawn) -> None:
    ids = {*drawn.truth}
    assert {"a.jpg", "a.png", "shard.tar/22.05", "../climbs", "empty.jpg"} <= ids
    assert "broken.jpg" not in ids
    assert not drawn.truth["empty.jpg"]
    assert drawn.sizes["turned.jpg"] == (44, 30)
    assert sum(map(len, drawn.truth.values())) > 60


def test_pycocotools_reads_instances_and_finds_them_perfect(
    drawn: Drawn, folders: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = folders["coco_instances"] / "annotations/instances_default.json"
    truth = COCO(str(place))
    names = {each["id"]: each["name"] for each in truth.dataset["categories"]}
    assert [*names.values()] == [*LABELS]
    assert min(names) == 1
    found = {}
    for image in truth.dataset["images"]:
        annotations = truth.imgToAnns[image["id"]]
        found[image["table_image_id"]] = sorted(
            [names[each["category_id"]], each["segmentation"]["counts"], each["area"]]
            for each in annotations
        )
        for each in annotations:
            assert each["iscrowd"] == 0
            assert coco.toBbox(each["segmentation"]).tolist() == each["bbox"]
            assert coco.area(each["segmentation"]) == each["area"]
    assert found == dict(drawn.truth)
    results = [{**each, "score": each["score"]} for each in truth.dataset["annotations"]]
    judged = COCOeval(truth, truth.loadRes(results), "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)


def test_datumaro_reads_both_coco_formats(drawn: Drawn, folders: Mapping[str, Path]) -> None:
    panoptic, instances = folders["coco_panoptic"], folders["coco_instances"]
    found = read_by("datumaro", f"coco_panoptic={panoptic}", f"coco_instances={instances}")
    for format, folder in (("coco_panoptic", panoptic), ("coco_instances", instances)):
        task = format.removeprefix("coco_")
        image_of = ids_by_stem(folder, f"annotations/{task}_default.json")
        images = {
            image_of[name.removeprefix("default/")]: each for name, each in found[format].items()
        }
        assert {name: each["segments"] for name, each in images.items()} == masks_of(drawn), format
        assert {name: tuple(each["size"]) for name, each in images.items()} == drawn.sizes


def test_supervision_reads_instances_and_yolo(drawn: Drawn, folders: Mapping[str, Path]) -> None:
    instances, yolo = folders["coco_instances"], folders["yolo"]
    places = f"{instances}/images/default,{instances}/annotations/instances_default.json"
    found = read_by(
        "supervision",
        f"coco={places}",
        f"yolo={yolo}/images/default,{yolo}/labels/default,{yolo}/data.yaml",
    )
    image_of = ids_by_stem(instances, "annotations/instances_default.json")
    images = {image_of[name.rpartition(".")[0]]: each for name, each in found["coco"].items()}
    assert {name: each["segments"] for name, each in images.items()} == masks_of(drawn)
    assert {name: tuple(each["size"]) for name, each in images.items()} == drawn.sizes
    flat = {stem.replace("/", "__"): image_id for stem, image_id in image_of.items()}
    _check_polygons(drawn, {flat[n.rpartition(".")[0]]: e for n, e in found["yolo"].items()})


def _check_polygons(drawn: Drawn, images: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks an object for each segment, which covers it; exactly where it has one part."""
    assert images.keys() == drawn.truth.keys()
    exact = 0
    for image_id, found in images.items():
        height, width = drawn.sizes[image_id]
        assert len(found["segments"]) == len(drawn.truth[image_id]), image_id
        polygons = [
            (label, decode_rle(rle, height=height, width=width)) for label, rle in found["segments"]
        ]
        for label, rle, area in drawn.truth[image_id]:
            mask = decode_rle(rle, height=height, width=width)
            covering = [p for name, p in polygons if name == label and not (mask & ~p).any()]
            assert covering, (image_id, label)
            exact += min(int(p.sum()) for p in covering) == area
    assert exact >= 5


def test_datasets_reads_images_names_and_masks(
    drawn: Drawn, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    found = read_by("datasets", str(folders["hf"]), str(tmp_path))
    assert [*found] == ["train"]
    images = found["train"]
    assert {name: each["segments"] for name, each in images.items()} == dict(drawn.truth)
    assert {name: tuple(each["size"]) for name, each in images.items()} == drawn.sizes
    assert not any(each["unknown_ids"] for each in images.values())


def test_webdataset_reads_samples(drawn: Drawn, folders: Mapping[str, Path]) -> None:
    found = read_by("webdataset", *map(str, sorted(folders["webdataset"].glob("*.tar"))))
    assert {name: each["segments"] for name, each in found.items()} == masks_of(drawn)
    assert {name: tuple(each["size"]) for name, each in found.items()} == drawn.sizes
    assert len({each["key"] for each in found.values()}) == len(found)


def test_pillow_reads_label_maps(drawn: Drawn, folders: Mapping[str, Path]) -> None:
    folder = folders["label_maps"]
    names = json.loads((folder / "labels.json").read_bytes())
    assert names["labels"] == [*LABELS]
    assert [names["labels"][thing] for thing in names["things"]] == ["car", LABELS[2], "tree"]
    found = (folder / "images").rglob("*")
    photos = {path.relative_to(folder / "images") for path in found if path.is_file()}
    by_size: dict[tuple[int, int], int] = {}
    for path in photos:
        with Image.open(folder / "annotations" / path.with_suffix(".png")) as picture:
            assert picture.mode == "L"
            values = np.asarray(picture)
        with Image.open(folder / "images" / path) as picture:
            assert picture.size[::-1] == values.shape
        by_size[values.shape] = by_size.get(values.shape, 0) + 1
        matching = [
            image_id
            for image_id, segments in drawn.truth.items()
            if drawn.sizes[image_id] == values.shape and _is_map_of(values, segments)
        ]
        assert matching, path
    assert sum(by_size.values()) == len(drawn.truth)


def _is_map_of(values: np.ndarray, segments: list[list[Any]]) -> bool:
    painted = np.full(values.shape, 255)
    for label, rle, _ in segments:
        painted[decode_rle(rle, height=values.shape[0], width=values.shape[1])] = LABELS.index(
            label
        )
    return bool((painted == values).all())
