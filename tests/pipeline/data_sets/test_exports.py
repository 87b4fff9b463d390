"""The folder that a labelling tool exported, pointed at as it lies there."""

from pathlib import Path

import pytest
from corpora import put
from drawn_labels import coco_instances, coco_panoptic, label_maps, scenes

from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

INSTANCES = coco_instances(scenes())
JSON = INSTANCES["annotations/instances_val.json"]
PHOTOS = {name.removeprefix("val/"): data for name, data in INSTANCES.items() if "val/" in name}


def exported_files(folder: str, json_name: str) -> dict[str, bytes]:
    return {f"{folder}{name}": data for name, data in PHOTOS.items()} | {json_name: JSON}


@pytest.mark.parametrize(
    ("export", "folder"),
    [
        (exported_files("images/default/", "annotations/instances_default.json"), ""),  # CVAT
        (exported_files("train/", "train/_annotations.coco.json"), ""),  # Roboflow
        (exported_files("train/", "train/_annotations.coco.json"), "train"),
        (exported_files("data/", "labels.json"), ""),  # FiftyOne
        (exported_files("images/", "result.json"), ""),  # Label Studio
        (INSTANCES, ""),
    ],
)
def test_the_one_coco_json_of_a_folder_is_the_data_set(
    tmp_path: Path, export: dict[str, bytes], folder: str
) -> None:
    put(tmp_path, export)
    dataset = open_labelled(DatasetSettings(dataset=str(tmp_path / folder)))
    assert (dataset.kind, len(dataset)) == ("coco_instances", 3)
    assert dataset.image(0).data == scenes()[0].jpeg
    [name] = [name for name in export if name.endswith(".json")]
    assert any(name in note for note in dataset.notes)


def test_of_several_one_must_be_named(tmp_path: Path) -> None:
    parts = [
        exported_files(f"{part}/", f"{part}/_annotations.coco.json") for part in ("train", "valid")
    ]
    put(tmp_path, parts[0] | parts[1])
    with pytest.raises(LabelError, match=r"2 COCO JSONs: .*train/_ann.*valid/_ann.*--dataset"):
        open_labelled(DatasetSettings(dataset=str(tmp_path)))


def test_a_panoptic_folder_is_one_too(tmp_path: Path) -> None:
    put(tmp_path, coco_panoptic(scenes()))
    assert open_labelled(DatasetSettings(dataset=str(tmp_path))).kind == "coco_panoptic"


def test_label_maps_stay_what_they_are_beside_other_jsons(tmp_path: Path) -> None:
    put(tmp_path, label_maps(scenes()) | {"annotations/info.json": b'{"info": {}}'})
    assert open_labelled(DatasetSettings(dataset=str(tmp_path))).kind == "label_maps"
    put(tmp_path, {"annotations/instances.json": JSON})
    assert open_labelled(DatasetSettings(dataset=str(tmp_path))).kind == "label_maps"


def test_formats_that_are_not_read_are_named_with_those_that_are(tmp_path: Path) -> None:
    put(tmp_path, {f"images/{name}": data for name, data in PHOTOS.items()})
    put(tmp_path, {"annotations.xml": b"<annotations/>"})
    with pytest.raises(LabelError, match=r"3 photographs and 0 label maps.*annotations\.xml"):
        open_labelled(DatasetSettings(dataset=str(tmp_path)))
