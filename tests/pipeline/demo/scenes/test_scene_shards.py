"""Scenes as tar shards, read back by what evaluation and training read with."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.checking import check_images
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.demo.scenes.__main__ import main
from pipeline.demo.scenes.scene import LABELS, THINGS, draw_scene
from pipeline.demo.scenes.shards import write_shards
from pipeline.storage import join

SIZE = (96, 128)


@pytest.fixture
def written(tmp_path):
    folder = str(tmp_path / "scenes")
    write_shards(folder, num_images=7, seed=3, shard_images=3, sizes=[SIZE])
    return folder


def test_shards_are_read_back_as_they_were_drawn(written):
    dataset = open_labelled(DatasetSettings(dataset=written))
    assert (dataset.kind, dataset.truths, len(dataset)) == ("webdataset", "segments", 7)
    assert dataset.labels.names == LABELS
    assert {LABELS[thing] for thing in dataset.labels.things} == set(THINGS)
    assert check_images(dataset).num_empty == 0
    for index in range(7):
        scene, read = draw_scene(index, seed=3, size=SIZE), dataset[index]
        assert read.image.image_id == f"scenes-{index // 3:04}.tar/scene-{index:06}"
        np.testing.assert_array_equal(read.target.ids, scene.ids)
        assert [s.label_id for s in read.target.segments] == list(scene.label_ids)
        photo = np.asarray(Image.open(io.BytesIO(read.image.data))).astype(int)
        assert np.abs(photo - scene.pixels).mean() < 8


def test_more_processes_write_the_same_bytes(tmp_path):
    for processes in (1, 2):
        write_shards(
            str(tmp_path / str(processes)),
            num_images=4,
            seed=3,
            shard_images=2,
            sizes=[SIZE],
            num_processes=processes,
        )
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12"
    )
    assert len(one) == 3
    assert one == two


def test_a_place_with_files_is_refused(written):
    before = {path.name: path.read_bytes() for path in Path(written).iterdir()}
    with pytest.raises(ValueError, match="empty place"):
        write_shards(written, num_images=1, seed=3)
    assert {path.name: path.read_bytes() for path in Path(written).iterdir()} == before


def test_the_command_writes_shards_and_says_what_is_wrong(tmp_path, capsys):
    folder = str(tmp_path / "out")
    command = [folder, "--num_images", "3", "--shard_images", "2", "--num_processes", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"3 scenes are in {folder}\n"
    assert len(open_labelled(DatasetSettings(dataset=join(folder, "scenes-0001.tar")))) == 1
    assert main(command) == 2
    assert "there are files" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--num_images", "0"]) == 2
    assert "num_images must be at least 1" in capsys.readouterr().err
