"""Several data sets are one: labels are joined by name, and each image keeps its own."""

import json
from dataclasses import replace

import numpy as np
import pytest
from corpora import put
from drawn_labels import (
    IGNORED,
    LABELS,
    coco_instances,
    label_maps,
    names_json,
    panoptic_shards,
    scenes,
    write_table,
)

from pipeline.datasets.mixing import mixed_images
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

DRAWN = scenes(5)


def open_set(dataset: str, **settings):
    return open_labelled(DatasetSettings(dataset=dataset, **settings))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A table, and tars whose labels are in another order and one more."""
    folder = tmp_path_factory.mktemp("mixing")
    names = ["car", "road", "moon", "sky", "tree"]
    turned = [
        replace(
            scene, label_of={n: names.index(LABELS[label]) for n, label in scene.label_of.items()}
        )
        for scene in DRAWN[3:]
    ]
    told = {"labels": names, "things": ["tree", "car"]}
    files = panoptic_shards(turned) | {"labels.json": json.dumps(told).encode()}
    return [open_set(write_table(folder, DRAWN[:3])), open_set(put(folder / "tars", files))]


def test_images_come_one_after_the_other_with_labels_joined_by_name(parts):
    mixed = mixed_images(parts)
    assert len(mixed) == 5
    assert mixed.labels.names == (*LABELS, "moon")
    assert mixed.labels.things == {2, 3}
    assert mixed.truths == "segments"
    for index, scene in enumerate(DRAWN):
        assert mixed[index].image.data == scene.jpeg
        found = mixed.target(index).label_map(ignore_index=IGNORED)
        np.testing.assert_array_equal(found, scene.label_map)
    assert mixed.notes[0] == f"mixed: 3 images of {parts[0].uri}; 2 images of {parts[1].uri}"


def test_the_task_is_one_that_all_can_teach(parts, tmp_path):
    maps = open_set(put(tmp_path / "maps", label_maps(DRAWN)))
    assert mixed_images([parts[0], maps]).truths == "labels"
    root = put(tmp_path / "coco", coco_instances(DRAWN))
    name = next(name for name in coco_instances(DRAWN) if name.endswith(".json"))
    objects = open_set(f"{root}/{name}", images=f"{root}/val")
    assert mixed_images([parts[0], objects]).truths == "instances"
    with pytest.raises(LabelError, match="must teach the same task"):
        mixed_images([maps, objects])


def test_a_thing_of_one_must_not_be_stuff_of_another(parts, tmp_path):
    files = panoptic_shards(DRAWN) | {"labels.json": names_json(things=["car"])}
    with pytest.raises(LabelError, match="tree is a thing in"):
        mixed_images([parts[0], open_set(put(tmp_path / "other", files))])
