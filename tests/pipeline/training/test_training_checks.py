"""What is wrong with labelled data is told before the first step, and what it holds is counted."""

from pathlib import Path

import numpy as np
import pytest
from corpora import put, tar
from drawn_labels import encoded, names_json, panoptic_shards, scenes

from maskformer import MaskFormerImageProcessor
from pipeline.labelled.opening import open_labelled
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import LabelError
from pipeline.training.checking import census_lines, check_training_data
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.targets import TargetSettings


def data_of(files: dict[str, bytes], folder: Path, **targets: object) -> TrainingData:
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=put(folder, files))),
        augmentation=Augmentation(),
        processor=MaskFormerImageProcessor(),
        seed=0,
        targets=TargetSettings(**targets),
    )


def maps_in_tar(*maps: np.ndarray) -> dict[str, bytes]:
    members = [
        member
        for number, label_map in enumerate(maps)
        for member in ((f"{number}.jpg", scenes()[0].jpeg), (f"{number}.png", encoded(label_map)))
    ]
    return {"labels.json": names_json(), "x.tar": tar(members)}


def plain(label: int, *, width: int = 48) -> np.ndarray:
    return np.full((36, width), label, np.uint8)


def test_images_and_labels_are_counted(tmp_path: Path) -> None:
    data = data_of(panoptic_shards(scenes()), tmp_path)
    census = check_training_data(data)
    assert (census.num_images, census.num_empty) == (3, 0)
    assert census_lines(census, data=data) == ["3 images show 4 of 4 labels; 0 show none"]


def test_empty_images_and_unseen_labels_are_told(tmp_path: Path) -> None:
    data = data_of(maps_in_tar(plain(0), plain(255), plain(255)), tmp_path)
    assert census_lines(check_training_data(data), data=data) == [
        "3 images show 1 of 4 labels; 2 show none",
        "no image shows sky, tree, car: they stay unlearnt",
        "what counts for nothing (ignore_index 255) covers 66.7 % of the pixels",
    ]


def test_maps_of_0_and_255_are_refused_unless_255_is_said_to_count_for_nothing(
    tmp_path: Path,
) -> None:
    binary = plain(0)
    binary[:9] = 255
    files = maps_in_tar(binary, binary)
    with pytest.raises(LabelError, match=r"ignore_index 255 in 25 % .* if that is lesion, say so"):
        check_training_data(data_of(files | {"labels.json": b'["skin", "lesion"]'}, tmp_path))
    values = {"labels.json": b'{"0": "skin", "255": "lesion"}'}
    census = check_training_data(data_of(files | values, tmp_path))
    assert census.pixels_of_label == {0: 2 * 27 * 48, 1: 2 * 9 * 48}


def test_data_that_shows_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    data = data_of(maps_in_tar(plain(255), plain(255)), tmp_path / "void")
    with pytest.raises(LabelError, match="none of 2 images shows a label that the task semantic"):
        check_training_data(data)
    stuff = panoptic_shards([scene for scene in scenes() if scene.label_of])
    things = data_of(stuff, tmp_path / "things", task="instance")
    check_training_data(things)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(plain(4), "image .*/1.* the map holds 4"), (plain(0, width=40), "image .*/1: .*36 x 40")],
)
def test_the_first_image_that_is_wrong_is_named(
    wrong: np.ndarray, said: str, tmp_path: Path
) -> None:
    data = data_of(maps_in_tar(plain(0), wrong, wrong), tmp_path)
    with pytest.raises(LabelError, match=said):
        check_training_data(data)
    assert check_training_data(data, indices=[0]).num_images == 1
