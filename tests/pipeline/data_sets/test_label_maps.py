"""Label maps as the well-known data sets have them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import put, tar
from drawn_labels import IGNORED, LABELS, label_maps, names_json, scenes
from PIL import Image

from pipeline.datasets.checking import check_images, hidden_label
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

MAP = np.array([[0, 1, 2], [3, 255, 3]], np.uint8)
PHOTO = encode_image(Image.new("RGB", (3, 2)))


def read_first_map(root: Path, **settings: object) -> np.ndarray:
    [found] = (
        open_labelled(DatasetSettings(dataset=str(root), **settings)).rows["image_id"].to_pylist()
    )
    dataset = open_labelled(DatasetSettings(dataset=str(root), **settings))
    assert dataset.image_id(0) == found
    return dataset.target(0).label_map(ignore_index=999)


@pytest.mark.parametrize(
    ("photo", "label_map", "settings"),
    [
        ("a.jpg", "a.png", {}),
        ("images/val/a.jpg", "annotations/val/a.png", {}),
        ("val/images/a.png", "val/labels/a.png", {}),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", {}),
        ("leftImg8bit/val/ulm/a_leftImg8bit.png", "gtFine/val/ulm/a_gtFine_labelTrainIds.png", {}),
        ("photos/a.png", "truth/a_L.png", {"maps": "truth", "map_suffix": "_L"}),
        ("photos/a.png", "truth/a_L.png", {"maps": "truth"}),
        ("a.jpg", "a_mask.png", {}),
        ("a.png", "a_mask.png", {}),
        ("a.png", "a_truth.png", {"map_suffix": "_truth"}),
        ("images/a.jpg", "masks/a_mask.png", {}),
        ("images/a.jpg", "images/a_segmentation.png", {}),
        ("images/a.jpg", "masks/a.jpg.png", {}),
        ("images/A.JPG", "masks/a.png", {}),
        ("images/ba\u0308r.jpg", "masks/b\u00e4r.png", {}),
    ],
)
def test_maps_are_found_by_name(
    tmp_path: Path, photo: str, label_map: str, settings: dict[str, str]
) -> None:
    put(tmp_path, {photo: PHOTO, label_map: encode_image(MAP), "labels.json": names_json()})
    root = tmp_path
    if "maps" in settings:
        root = tmp_path / "photos"
        put(root, {"labels.json": names_json()})
        settings = settings | {"maps": str(tmp_path / settings["maps"])}
    np.testing.assert_array_equal(read_first_map(root, **settings), [[0, 1, 2], [3, 999, 3]])


def test_other_maps_of_cityscapes_are_left_alone(tmp_path: Path) -> None:
    files = {
        "leftImg8bit/val/ulm/a_leftImg8bit.png": PHOTO,
        "gtFine/val/ulm/a_gtFine_labelTrainIds.png": encode_image(MAP),
        "gtFine/val/ulm/a_gtFine_color.png": PHOTO,
        "gtFine/val/ulm/a_gtFine_labelIds.png": encode_image(MAP),
    }
    put(tmp_path, files | {"labels.json": names_json()})
    np.testing.assert_array_equal(read_first_map(tmp_path), [[0, 1, 2], [3, 999, 3]])


def test_reduced_labels_count_from_one_and_zero_is_ignored(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [4, 255, 3]], np.uint8)
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encode_image(values), "labels.json": names_json()})
    expected = [[999, 0, 1], [3, 999, 2]]
    np.testing.assert_array_equal(read_first_map(tmp_path, reduce_labels=True), expected)
    with pytest.raises(LabelError, match="holds 4"):
        read_first_map(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept(tmp_path: Path, kind: str) -> None:
    names = [f"label {number}" for number in range(1000)]
    values = np.array([[0, 999, 256], [65535, 1, 2]], np.uint16)
    put(
        tmp_path,
        {
            "images/a.jpg": PHOTO,
            f"labels/a.{kind.lower()}": encode_image(values, kind),
            "labels.json": names_json(labels=names, things=[], ignore_index=65535),
        },
    )
    np.testing.assert_array_equal(read_first_map(tmp_path), [[0, 999, 256], [999, 1, 2]])
    names_without_bound = names_json(labels=names, things=[]).replace(b', "ignore_index": 255', b"")
    put(tmp_path, {"labels.json": names_without_bound})
    np.testing.assert_array_equal(read_first_map(tmp_path), [[0, 999, 256], [999, 1, 2]])


def test_the_indices_of_a_palette_are_the_labels(tmp_path: Path) -> None:
    picture = Image.fromarray(MAP, "L").convert("P")
    picture.putpalette([*range(255, -1, -1)] * 3)
    picture.putdata(MAP.ravel().tolist())
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encode_image(picture), "labels.json": names_json()})
    np.testing.assert_array_equal(read_first_map(tmp_path), [[0, 1, 2], [3, 999, 3]])


def test_the_settings_win_over_labels_json(tmp_path: Path) -> None:
    values = np.where(MAP == IGNORED, 77, MAP)
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encode_image(values), "labels.json": names_json()})
    np.testing.assert_array_equal(
        read_first_map(tmp_path, ignore_index=77), [[0, 1, 2], [3, 999, 3]]
    )


def test_labels_may_lie_elsewhere_and_be_a_plain_list(tmp_path: Path) -> None:
    files = label_maps(scenes(1))
    del files["labels.json"]
    put(tmp_path, files | {"names/four.json": b'["road", "sky", "tree", "car"]'})
    settings = DatasetSettings(dataset=str(tmp_path), labels=str(tmp_path / "names" / "four.json"))
    assert open_labelled(settings).labels.names == LABELS


def test_things_may_be_ids(tmp_path: Path) -> None:
    put(tmp_path, label_maps(scenes(1)) | {"labels.json": names_json(things=[2, "car"])})
    assert open_labelled(DatasetSettings(dataset=str(tmp_path))).labels.things == {2, 3}
    put(tmp_path, {"labels.json": names_json(things=[4])})
    with pytest.raises(ValueError, match="0 to 3"):
        open_labelled(DatasetSettings(dataset=str(tmp_path)))


def test_photographs_without_a_map_can_be_left_out_and_are_named(tmp_path: Path) -> None:
    files = label_maps(scenes(3))
    del files["annotations/val/scene-0.png"]
    put(tmp_path, files)
    settings = DatasetSettings(dataset=str(tmp_path))
    with pytest.raises(LabelError, match=r"scene-0\.jpg has no label map .* --skip_unlabelled"):
        open_labelled(settings)
    dataset = open_labelled(dataclasses.replace(settings, skip_unlabelled=True))
    assert len(dataset) == 2
    assert any(
        "1 photograph without" in note and "val/scene-0.jpg" in note for note in dataset.notes
    )


def test_samples_of_tars_without_a_map_can_be_left_out_too(tmp_path: Path) -> None:
    scene = scenes(1)[0]
    members = [
        ("a.jpg", scene.jpeg),
        ("b.jpg", scene.jpeg),
        ("b.png", encode_image(scene.label_map)),
    ]
    put(tmp_path, {"all.tar": tar(members), "labels.json": names_json()})
    with pytest.raises(LabelError, match=r"all\.tar/a has no label map"):
        open_labelled(DatasetSettings(dataset=str(tmp_path)))
    dataset = open_labelled(DatasetSettings(dataset=str(tmp_path), skip_unlabelled=True))
    assert dataset.rows["image_id"].to_pylist() == ["all.tar/b"]
    assert any("all.tar/a" in note for note in dataset.notes)


def test_two_photographs_of_one_name_are_an_error_and_none_is_lost(tmp_path: Path) -> None:
    files = label_maps(scenes(1)) | {"images/val/scene-0.png": PHOTO}
    put(tmp_path, files)
    with pytest.raises(LabelError, match=r"scene-0\.jpg and .*scene-0\.png"):
        open_labelled(DatasetSettings(dataset=str(tmp_path)))


def test_maps_by_two_suffixes_are_chosen_by_an_option(tmp_path: Path) -> None:
    files = {"a.jpg": PHOTO, "a_mask.png": encode_image(MAP), "a_seg.png": encode_image(0 * MAP)}
    put(tmp_path, files | {"labels.json": names_json()})
    with pytest.raises(LabelError, match=r"suffixes _mask and _seg; .* --map_suffix"):
        read_first_map(tmp_path)
    np.testing.assert_array_equal(
        read_first_map(tmp_path, map_suffix="_mask"), [[0, 1, 2], [3, 999, 3]]
    )


def test_maps_of_0_and_255_say_what_the_ignore_index_hides(tmp_path: Path) -> None:
    binary = np.zeros((2, 3), np.uint8)
    binary[0, 0] = 255
    put(
        tmp_path,
        {"a.jpg": PHOTO, "a.png": encode_image(binary), "labels.json": b'["skin", "lesion"]'},
    )
    settings = DatasetSettings(dataset=str(tmp_path))
    dataset = open_labelled(settings)
    said = hidden_label(check_images(dataset), dataset=dataset)
    assert said is not None
    for piece in ("skin", "ignore_index 255 in 16.7 %", '{"0": "skin", "255": "lesion"}'):
        assert piece in said
    put(tmp_path, {"two.json": b'{"0": "skin", "255": "lesion"}'})
    for change in ({"ignore_index": 255}, {"labels": str(tmp_path / "two.json")}):
        dataset = open_labelled(dataclasses.replace(settings, **change))
        assert hidden_label(check_images(dataset), dataset=dataset) is None
