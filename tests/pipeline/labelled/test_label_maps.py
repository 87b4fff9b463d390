"""Label maps as the well-known data sets have them."""

from pathlib import Path

import numpy as np
import pytest
from corpora import put
from drawn_labels import IGNORED, LABELS, encoded, label_maps, names_json, scenes
from PIL import Image

from pipeline.labelled.opening import open_labelled
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import LabelError

MAP = np.array([[0, 1, 2], [3, 255, 3]], np.uint8)
PHOTO = encoded(Image.new("RGB", (3, 2)))


def read(root: Path, **settings: object) -> np.ndarray:
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
    ],
)
def test_maps_are_found_by_name(
    tmp_path: Path, photo: str, label_map: str, settings: dict[str, str]
) -> None:
    put(tmp_path, {photo: PHOTO, label_map: encoded(MAP), "labels.json": names_json()})
    root = tmp_path
    if "maps" in settings:
        root = tmp_path / "photos"
        put(root, {"labels.json": names_json()})
        settings = settings | {"maps": str(tmp_path / settings["maps"])}
    np.testing.assert_array_equal(read(root, **settings), [[0, 1, 2], [3, 999, 3]])


def test_other_maps_of_cityscapes_are_left_alone(tmp_path: Path) -> None:
    files = {
        "leftImg8bit/val/ulm/a_leftImg8bit.png": PHOTO,
        "gtFine/val/ulm/a_gtFine_labelTrainIds.png": encoded(MAP),
        "gtFine/val/ulm/a_gtFine_color.png": PHOTO,
        "gtFine/val/ulm/a_gtFine_labelIds.png": encoded(MAP),
    }
    put(tmp_path, files | {"labels.json": names_json()})
    np.testing.assert_array_equal(read(tmp_path), [[0, 1, 2], [3, 999, 3]])


def test_reduced_labels_count_from_one_and_zero_is_ignored(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [4, 255, 3]], np.uint8)
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encoded(values), "labels.json": names_json()})
    expected = [[999, 0, 1], [3, 999, 2]]
    np.testing.assert_array_equal(read(tmp_path, reduce_labels=True), expected)
    with pytest.raises(LabelError, match="holds 4"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept(tmp_path: Path, kind: str) -> None:
    names = [f"label {number}" for number in range(1000)]
    values = np.array([[0, 999, 256], [65535, 1, 2]], np.uint16)
    put(
        tmp_path,
        {
            "images/a.jpg": PHOTO,
            f"labels/a.{kind.lower()}": encoded(values, kind),
            "labels.json": names_json(labels=names, things=[], ignore_index=65535),
        },
    )
    np.testing.assert_array_equal(read(tmp_path), [[0, 999, 256], [999, 1, 2]])
    names_without_bound = names_json(labels=names, things=[]).replace(b', "ignore_index": 255', b"")
    put(tmp_path, {"labels.json": names_without_bound})
    np.testing.assert_array_equal(read(tmp_path), [[0, 999, 256], [999, 1, 2]])


def test_the_indices_of_a_palette_are_the_labels(tmp_path: Path) -> None:
    picture = Image.fromarray(MAP, "L").convert("P")
    picture.putpalette([*range(255, -1, -1)] * 3)
    picture.putdata(MAP.ravel().tolist())
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encoded(picture), "labels.json": names_json()})
    np.testing.assert_array_equal(read(tmp_path), [[0, 1, 2], [3, 999, 3]])


def test_the_settings_win_over_labels_json(tmp_path: Path) -> None:
    values = np.where(MAP == IGNORED, 77, MAP)
    put(tmp_path, {"a.jpg": PHOTO, "a.png": encoded(values), "labels.json": names_json()})
    np.testing.assert_array_equal(read(tmp_path, ignore_index=77), [[0, 1, 2], [3, 999, 3]])


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
