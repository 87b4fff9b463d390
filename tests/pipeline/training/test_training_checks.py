"""What is wrong with labelled data is told before the first step, and what it holds is counted."""

import json
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import put, tar
from drawn_labels import names_json, panoptic_shards, scenes, segments_info

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.training.checking import census_lines, check_training_data
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import TargetSettings


def checked_data(
    files: dict[str, bytes], folder: Path, *, name: str = "", **targets: object
) -> TrainingData:
    put(folder, files)
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=str(folder / name))),
        augmentation=Augmentation(),
        processor=MaskFormerImageProcessor(),
        seed=0,
        targets=TargetSettings(**targets),
    )


def maps_in_tar(*maps: np.ndarray) -> dict[str, bytes]:
    members = [
        member
        for number, label_map in enumerate(maps)
        for member in (
            (f"{number}.jpg", scenes()[0].jpeg),
            (f"{number}.png", encode_image(label_map)),
        )
    ]
    return {"labels.json": names_json(), "x.tar": tar(members)}


def plain_photograph(label: int, *, width: int = 48) -> np.ndarray:
    return np.full((36, width), label, np.uint8)


def test_images_and_labels_are_counted(tmp_path: Path) -> None:
    data = checked_data(panoptic_shards(scenes()), tmp_path)
    census = check_training_data(data)
    assert (census.num_images, census.num_empty) == (3, 0)
    assert census_lines(census, data=data) == ["3 images show 4 of 4 labels; 0 images show none"]


def test_empty_images_and_unseen_labels_are_told(tmp_path: Path) -> None:
    data = checked_data(
        maps_in_tar(plain_photograph(0), plain_photograph(255), plain_photograph(255)), tmp_path
    )
    assert census_lines(check_training_data(data), data=data) == [
        "3 images show 1 of 4 labels; 2 images show none",
        "no image shows sky, tree, car: the model cannot learn them",
        "66.7 % of the pixels are ignored (ignore_index 255)",
    ]


def test_maps_of_0_and_255_are_refused_unless_255_is_said_to_count_for_nothing(
    tmp_path: Path,
) -> None:
    binary = plain_photograph(0)
    binary[:9] = 255
    files = maps_in_tar(binary, binary)
    with pytest.raises(LabelError, match=r"ignore_index 255 in 25 % .* if that is lesion, write"):
        check_training_data(checked_data(files | {"labels.json": b'["skin", "lesion"]'}, tmp_path))
    values = {"labels.json": b'{"0": "skin", "255": "lesion"}'}
    census = check_training_data(checked_data(files | values, tmp_path))
    assert census.pixels_of_label == {0: 2 * 27 * 48, 1: 2 * 9 * 48}


def test_data_that_shows_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    data = checked_data(
        maps_in_tar(plain_photograph(255), plain_photograph(255)), tmp_path / "void"
    )
    with pytest.raises(LabelError, match="none of 2 images shows a label that the task semantic"):
        check_training_data(data)
    stuff = panoptic_shards([scene for scene in scenes() if scene.label_of])
    things = checked_data(stuff, tmp_path / "things", task="instance")
    check_training_data(things)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (plain_photograph(4), "image .*/1.* the map holds 4"),
        (plain_photograph(0, width=40), "image .*/1: .*36 x 40"),
    ],
)
def test_the_first_image_that_is_wrong_is_named(
    wrong: np.ndarray, said: str, tmp_path: Path
) -> None:
    data = checked_data(maps_in_tar(plain_photograph(0), wrong, wrong), tmp_path)
    with pytest.raises(LabelError, match=said):
        check_training_data(data)
    assert check_training_data(data, indices=[0]).num_images == 1


def crowd_instances(*crowds: int, count: int = 1) -> dict[str, bytes]:
    """COCO's, an image for each flag with so many objects that are crowds or not."""
    square = [[4, 4, 12, 4, 12, 12, 4, 12]]
    said = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "height": 36, "width": 48}
            for n, _ in enumerate(crowds)
        ],
        "annotations": [
            {"image_id": n, "category_id": 1, "iscrowd": crowd, "segmentation": square}
            for n, crowd in enumerate(crowds)
            for _ in range(count)
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    files = {f"images/{n}.jpg": scenes()[0].jpeg for n, _ in enumerate(crowds)}
    return {**files, "data.json": json.dumps(said).encode()}


def test_objects_that_are_crowds_are_told_and_are_no_images_of_their_label(tmp_path: Path) -> None:
    data = checked_data(crowd_instances(0, 1, 1, count=2), tmp_path, name="data.json")
    assert census_lines(check_training_data(data), data=data) == [
        "3 images show 1 of 1 label; 2 images show none",
        "4 of 6 objects are crowds and are not learnt (iscrowd 1, as CVAT writes for masks "
        "drawn with a brush)",
    ]


def test_data_of_crowds_alone_is_refused(tmp_path: Path) -> None:
    data = checked_data(crowd_instances(1, 1), tmp_path, name="data.json")
    with pytest.raises(LabelError, match=r"all 2 objects of 2 images are crowds.*write 0 for the"):
        check_training_data(data)


def test_crowds_of_panoptic_data_are_learnt_by_the_task_semantic_alone(tmp_path: Path) -> None:
    scene = scenes()[0]
    said = [each | {"iscrowd": 1} for each in segments_info(scene)]
    members = [
        ("a.jpg", scene.jpeg),
        ("a.png", encode_image(scene.ids.astype(np.uint16))),
        ("a.json", json.dumps({"segments_info": said}).encode()),
    ]
    files = {"labels.json": names_json(), "x.tar": tar(members)}
    data = checked_data(files, tmp_path, task="semantic")
    assert census_lines(check_training_data(data), data=data) == [
        "1 image shows 4 of 4 labels; 0 images show none"
    ]
    with pytest.raises(LabelError, match="all 5 objects of 1 image are crowds"):
        check_training_data(checked_data(files, tmp_path, task="panoptic"))


def test_an_image_with_more_objects_than_the_model_has_queries_is_named(tmp_path: Path) -> None:
    data = checked_data(crowd_instances(0, count=12), tmp_path, name="data.json")
    census = check_training_data(data)
    assert len(census_lines(census, data=data, num_queries=12)) == 1
    assert census_lines(census, data=data, num_queries=10)[1:] == [
        "the model finds at most 10 objects in an image (num_queries), and 1 of 1 image has more "
        "(0.jpg has 12): without a crop, 2 of 12 objects are not learnt"
    ]
