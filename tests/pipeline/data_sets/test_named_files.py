"""Photographs that a JSON names as another machine does."""

import json
import unicodedata
from pathlib import Path

import pytest
from corpora import put
from drawn_labels import coco_instances, coco_panoptic, scenes

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

JSON = "annotations/instances_val.json"


def open_with_names(
    root: Path, names: list[str], files: list[str], **settings: str
) -> LabelledImages:
    """The JSON with these names of photographs, over files of these names below val/."""
    drawn = scenes(len(names))
    said = json.loads(coco_instances(drawn)[JSON])
    for image, name in zip(said["images"], names, strict=True):
        image["file_name"] = name
    photos = {f"val/{file}": drawn[0].jpeg for file in files}
    put(root, photos | {JSON: json.dumps(said).encode()})
    return open_labelled(DatasetSettings(dataset=str(root / JSON), **settings))


def found(dataset: LabelledImages) -> list[str]:
    uris = [row["image"]["uri"] for row in dataset.rows.to_pylist()]
    return [uri.partition("/val/")[2] for uri in uris]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/home/bob/data/1.jpg", "1.jpg"),
        ("C:\\data\\val\\1.jpg", "1.jpg"),
        ("\\\\server\\share\\sub\\1.jpg", "sub/1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("sub\\1.jpg", "sub/1.jpg"),
        ("1.JPG", "1.jpg"),
        ("IMG_1.jpg", "img_1.JPG"),
        (unicodedata.normalize("NFD", "bär.jpg"), unicodedata.normalize("NFC", "bär.jpg")),
        (unicodedata.normalize("NFC", "bär.jpg"), unicodedata.normalize("NFD", "bär.jpg")),
        ("http://images.cocodataset.org/val2017/0%201.jpg?size=l", "0 1.jpg"),
        ("1.jpg", "sub/deep/1.jpg"),
        ("val/1.jpg", "1.jpg"),
    ],
)
def test_a_name_in_another_writing_is_of_the_one_file_that_ends_so(
    tmp_path: Path, name: str, file: str
) -> None:
    dataset = open_with_names(tmp_path, [name, "2.jpg"], [file, "2.jpg", "other.jpg"])
    assert found(dataset) == [file, "2.jpg"]
    [note] = [note for note in dataset.notes if "in another spelling" in note]
    assert "1 of 2 files" in note
    assert name in note


@pytest.mark.parametrize("is_null", [False, True])
def test_an_image_without_a_name_is_found_by_the_last_name_of_its_url(
    tmp_path: Path, is_null: bool
) -> None:
    drawn = scenes(2)
    said = json.loads(coco_instances(drawn)[JSON])
    for image, url in zip(said["images"], ("http://h/val2017/0%201.jpg?s=l", 5), strict=True):
        image["coco_url"] = url
    del said["images"][0]["file_name"]
    if is_null:
        said["images"][0]["file_name"] = None
    photos = {"val/deep/0 1.jpg": drawn[0].jpeg, f"val/{drawn[1].name}.jpg": drawn[1].jpeg}
    put(tmp_path, photos | {JSON: json.dumps(said).encode()})
    dataset = open_labelled(DatasetSettings(dataset=str(tmp_path / JSON)))
    assert found(dataset) == ["deep/0 1.jpg", f"{drawn[1].name}.jpg"]
    assert dataset.image_id(0) == "0 1.jpg"
    assert dataset[0].image.data == drawn[0].jpeg
    said["images"][0]["coco_url"] = 5
    put(tmp_path, {JSON: json.dumps(said).encode()})
    with pytest.raises(LabelError, match="must be the name of a file" if is_null else "must have "):
        open_labelled(DatasetSettings(dataset=str(tmp_path / JSON)))


def test_names_to_the_letter_win_and_the_longest_end_comes_next(tmp_path: Path) -> None:
    files = ["1.jpg", "1.JPG", "sub/1.jpg", "./2.jpg"]
    names = ["1.JPG", "./1.jpg", "/home/sub/1.jpg"]
    assert found(open_with_names(tmp_path, names, files)) == ["1.JPG", "1.jpg", "sub/1.jpg"]


@pytest.mark.parametrize(
    ("names", "files", "pieces"),
    [
        (["1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "2.jpg"], ["any of 2 files", "a/1.jpg", "b/"]),
        (["a/1.jpg", "2.jpg"], ["b/1.jpg", "2.jpg"], ["image a/1.jpg", "--images"]),
        (
            ["3.jpg", "2.jpg"],
            ["1.jpg", "2.jpg"],
            ["image 3.jpg", "val/3.jpg, nor a file", "--images"],
        ),
        (["x/1.jpg", "y/1.jpg"], ["1.jpg"], ["x/1.jpg and y/1.jpg", "both would be", "val/1.jpg"]),
        (["3.jpg", "4.jpg"], ["1.jpg"], ["no 3.jpg in", "another of 2 names", "--images"]),
    ],
)
def test_where_there_is_doubt_the_message_says_what_was_looked_for(
    tmp_path: Path, names: list[str], files: list[str], pieces: list[str]
) -> None:
    with pytest.raises(LabelError) as caught:
        open_with_names(tmp_path, names, files)
    for piece in pieces:
        assert piece in str(caught.value)


def test_maps_of_a_panoptic_json_are_found_so_too(tmp_path: Path) -> None:
    files = coco_panoptic(scenes())
    place = "annotations/panoptic_val.json"
    said = json.loads(files[place])
    for annotation in said["annotations"]:
        annotation["file_name"] = f"D:\\panoptic\\{annotation['file_name'].upper()}"
    put(tmp_path, files | {place: json.dumps(said).encode()})
    dataset = open_labelled(DatasetSettings(dataset=str(tmp_path / place)))
    assert len(dataset.target(2).segments) == 5
