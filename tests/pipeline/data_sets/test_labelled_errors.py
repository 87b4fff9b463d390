"""What is wrong with labelled data is one line that names the image and the file."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import parquet, put, tar
from drawn_labels import (
    LABELS,
    coco_instances,
    coco_panoptic,
    label_maps,
    names_json,
    panoptic_shards,
    scenes,
    segments_info,
    shards,
    write_table,
)
from PIL import Image

from pipeline.datasets.checking import check_images
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

Files = dict[str, bytes]


def open_root(root: object, **settings: object) -> LabelledImages:
    return open_labelled(DatasetSettings(dataset=str(root), **settings))


def label_error_of(read: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the callers look at the message
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


MAP = "annotations/val/scene-1.png"


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (encode_image(np.full((36, 48), 4, np.uint8)), ["0 to 3", "ignore_index 255", "holds 4"]),
        (encode_image(np.full((36, 48), 300, np.uint16)), ["0 to 3", "holds 300"]),
        (encode_image(np.zeros((36, 47), np.uint8)), ["36 x 48", "36 x 47", "scene-1.jpg"]),
        (encode_image(scenes()[1].label_map)[:-60], ["cannot be decoded"]),
        (encode_image(Image.new("RGB", (48, 36), "red")), ["colours (RGB)", "8 or 16 bit"]),
        (encode_image(Image.new("L", (48, 36)), "JPEG"), ["no PNG", "JPEG"]),
        (b"", ["empty"]),
    ],
)
def test_a_wrong_map_is_named(tmp_path: Path, content: bytes, pieces: list[str]) -> None:
    dataset = open_root(put(tmp_path, label_maps(scenes()) | {MAP: content}))
    text = label_error_of(lambda: check_images(dataset))
    for piece in ["images/val/scene-1.jpg", *pieces]:
        assert piece in text
    if "upright" not in text:
        assert MAP in text


def test_a_photograph_without_a_map_is_named(tmp_path: Path) -> None:
    files = label_maps(scenes())
    del files[MAP]
    assert re.search(
        r"scene-1.jpg has no label map", label_error_of(lambda: open_root(put(tmp_path, files)))
    )


def test_a_map_without_a_photograph_is_named(tmp_path: Path) -> None:
    files = label_maps(scenes())
    del files["images/val/scene-1.jpg"]
    text = label_error_of(lambda: open_root(put(tmp_path, files)))
    assert re.search(r"annotations/val/scene-1.png has no photograph", text)


def test_a_photograph_that_is_none_is_named(tmp_path: Path) -> None:
    files = label_maps(scenes()) | {"images/val/scene-1.jpg": b"<html>404</html>"}
    text = label_error_of(lambda: check_images(open_root(put(tmp_path, files))))
    assert "image images/val/scene-1.jpg: NotAnImage" in text


def test_labels_of_a_photograph_that_exif_turns_say_so(tmp_path: Path) -> None:
    scene = scenes()[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    cut = replace(scene, ids=scene.ids[:, :-1])
    files = label_maps([cut]) | {
        "images/val/scene-0.jpg": encode_image(scene.photo, "JPEG", exif=exif)
    }
    text = label_error_of(lambda: check_images(open_root(put(tmp_path, files))))
    assert "48 x 36 pixels upright after its EXIF orientation 6 and its labels 36 x 47" in text


@pytest.mark.parametrize("lacking", ["jpg", "png"])
def test_a_sample_of_a_shard_that_lacks_a_half_is_named(tmp_path: Path, lacking: str) -> None:
    scene = scenes()[0]
    halves = {"jpg": scene.jpeg, "png": encode_image(scene.label_map)}
    members = [
        (f"{key}.{e}", halves[e]) for key in ("a", "b") for e in halves if key + e != "b" + lacking
    ]
    put(tmp_path, {"all.tar": tar(members), "labels.json": names_json()})
    what = "photograph" if lacking == "jpg" else "label map"
    assert f"image all.tar/b has no {what}" in label_error_of(lambda: open_root(tmp_path))


@pytest.mark.parametrize(
    ("archive", "pieces"),
    [
        (gzip.compress(tar([("a.jpg", b"x"), ("a.png", b"x")])), ["is compressed", "plain tar"]),
        (tar([("a.jpg", b"x" * 900), ("a.png", b"x")])[:1000], ["the archive ends"]),
        (tar([("a.jpg", b"x"), ("a.png", b"x"), ("b.txt", b"x"), ("a.jpg", b"x")]), ["twice"]),
        (tar([("notes.txt", b"x")]), ["no photograph with a label map"]),
    ],
)
def test_a_shard_that_cannot_be_used_is_named(
    tmp_path: Path, archive: bytes, pieces: list[str]
) -> None:
    name = "all.tar.gz" if archive[:2] == b"\x1f\x8b" else "all.tar"
    put(tmp_path, {name: archive, "labels.json": names_json()})
    text = label_error_of(lambda: open_root(tmp_path))
    for piece in pieces:
        assert piece in text


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        ({"id": 9}, ["segment 1, which is described nowhere"]),
        ({"id": 2}, ["the same id"]),
        ({"label_id": 4}, ["has label 4", "0 to 3"]),
    ],
)
def test_segments_that_do_not_fit_their_map_are_named(
    tmp_path: Path, change: dict[str, int], pieces: list[str]
) -> None:
    scene = scenes()[0]
    said = segments_info(scene)
    said[0] |= change
    members = [
        ("a.jpg", scene.jpeg),
        ("a.png", encode_image(scene.ids.astype(np.uint16))),
        ("a.json", json.dumps({"segments_info": said}).encode()),
    ]
    dataset = open_root(put(tmp_path, {"all.tar": tar(members), "labels.json": names_json()}))
    text = label_error_of(lambda: check_images(dataset))
    for piece in ["image all.tar/a", *pieces]:
        assert piece in text


def test_shards_of_maps_and_of_segments_do_not_mix(tmp_path: Path) -> None:
    files = panoptic_shards(scenes()) | {"more.tar": shards(scenes())["part-1.tar"]}
    assert "not both" in label_error_of(lambda: open_root(put(tmp_path, files)))


PANOPTIC, INSTANCES = "annotations/panoptic_val.json", "annotations/instances_val.json"


@pytest.mark.parametrize(
    ("place", "at", "change", "piece"),
    [
        (
            PANOPTIC,
            ("annotations", 1, "segments_info", 0),
            {"category_id": 99},
            "scene-1.jpg) must be the id of one of the categories, got 99",
        ),
        (
            PANOPTIC,
            ("annotations", 1),
            {"image_id": 99},
            "must be the id of one of the images, got 99",
        ),
        (PANOPTIC, ("annotations", 1), {"file_name": "x.png"}, "panoptic_val/x.png, nor a file"),
        (PANOPTIC, ("images", 1), {"file_name": "x.jpg"}, "val/x.jpg, nor a file"),
        (PANOPTIC, ("images", 0), {"file_name": "x.jpg"}, "image x.jpg is named"),
        (PANOPTIC, (), {"categories": None}, "lists of images, annotations and categories"),
        (
            INSTANCES,
            ("annotations", 0),
            {"segmentation": [[1, 2, 3, 4]]},
            "annotations[0].segmentation",
        ),
        (
            INSTANCES,
            ("images", 0),
            {"height": 40},
            "must be [40, 48], the height and width of the image, got [36, 48]",
        ),
        (
            INSTANCES,
            ("annotations", 0, "segmentation"),
            {"counts": "11"},
            "annotations[0].segmentation",
        ),
        (
            INSTANCES,
            ("annotations",),
            [{}],
            "annotations[9] (without an id) must have image_id, got {}",
        ),
        (PANOPTIC, ("categories",), [7], "categories[4] must be an object, got 7"),
    ],
)
def test_a_json_that_contradicts_itself_is_named(
    tmp_path: Path,
    place: str,
    at: tuple[str | int, ...],
    change: dict[str, object] | list[object],
    piece: str,
) -> None:
    files: Files = (coco_panoptic if place == PANOPTIC else coco_instances)(scenes())
    said = json.loads(files[place])
    changed = said
    for key in at:
        changed = changed[key]
    if isinstance(change, dict):
        changed |= change
    else:
        changed += change
    put(tmp_path, files | {place: json.dumps(said).encode()})
    assert piece in label_error_of(lambda: check_images(open_root(tmp_path / place)))


@pytest.mark.parametrize(
    ("said", "piece"),
    [
        (b"{", "must be JSON"),
        (b'{"names": []}', "a list of names"),
        (names_json(things=["boat"]), "'boat'"),
        (names_json(ignore_index=3), "ignore_index must be no label, got 3"),
        (names_json(colours=[]), "'colours'"),
    ],
)
def test_a_wrong_labels_json_is_named(tmp_path: Path, said: bytes, piece: str) -> None:
    put(tmp_path, label_maps(scenes()) | {"labels.json": said})
    assert piece in label_error_of(lambda: open_root(tmp_path))


def test_maps_without_names_take_those_of_the_model_or_ask_for_them(tmp_path: Path) -> None:
    files = label_maps(scenes())
    del files["labels.json"]
    put(tmp_path, files)
    assert "write" in label_error_of(lambda: open_root(tmp_path))
    settings = DatasetSettings(dataset=str(tmp_path))
    assert open_labelled(settings, model_labels=LABELS).labels.names == LABELS


@pytest.mark.parametrize(
    ("write", "name", "settings"),
    [
        (label_maps, "", {"images": "x"}),
        (shards, "", {"maps": "x"}),
        (panoptic_shards, "", {"ignore_index": 7}),
        (coco_panoptic, "annotations/panoptic_val.json", {"reduce_labels": True}),
        (coco_instances, "annotations/instances_val.json", {"maps": "x"}),
    ],
)
def test_a_setting_without_effect_is_refused(
    tmp_path: Path, write: Callable, name: str, settings: dict[str, object]
) -> None:
    put(tmp_path, write(scenes()))
    text = label_error_of(lambda: open_root(tmp_path / name, **settings))
    assert re.search(rf"{next(iter(settings))} has no effect", text)


@pytest.mark.parametrize(
    ("files", "piece"),
    [({}, "there is nothing at"), ({"notes.md": b"x"}, "holds no images, tars")],
)
def test_a_place_without_a_data_set_is_named(tmp_path: Path, files: Files, piece: str) -> None:
    assert piece in label_error_of(lambda: open_root(put(tmp_path, files)))


def test_a_row_without_a_map_is_named(tmp_path: Path) -> None:
    scene = scenes()[0]
    rows = parquet({"image": [scene.jpeg] * 2, "label": [encode_image(scene.label_map), None]})
    dataset = open_root(put(tmp_path, {"rows.parquet": rows, "labels.json": names_json()}))
    assert "rows.parquet, row 1: there are no bytes" in label_error_of(
        lambda: check_images(dataset)
    )


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    scene = scenes()[0]
    rows = parquet({"image": [scene.jpeg], "label": [encode_image(scene.label_map)]})
    for place in (4, 100):  # the pages come first, the footer last
        damaged = rows[:place] + bytes(60) + rows[place + 60 :]
        dataset = open_root(put(tmp_path, {"rows.parquet": damaged, "labels.json": names_json()}))
        assert "rows.parquet, row 0: " in label_error_of(lambda d=dataset: check_images(d))
    put(tmp_path, {"rows.parquet": rows[:-10]})
    assert "rows.parquet cannot be read as Parquet" in label_error_of(lambda: open_root(tmp_path))


def test_photographs_that_changed_since_a_table_was_made_are_named(tmp_path: Path) -> None:
    table = write_table(tmp_path, scenes())
    put(tmp_path / "photos", {"scene-1.jpg": scenes()[2].jpeg + b" "})
    assert re.search(
        r"scene-1.jpg has changed since it was segmented", label_error_of(lambda: open_root(table))
    )


def test_a_label_error_is_a_value_error_that_pickles() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(LabelError("image a: wrong")))
    assert isinstance(error, LabelError)
    assert str(error) == "image a: wrong"
