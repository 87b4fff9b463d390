"""Scenes are what their map says, and the same whenever they are drawn."""

from collections import Counter

import numpy as np
import pytest

from maskformer import PanopticQuality
from pipeline.demo.scenes.scene import LABELS, THINGS, Scene, draw_scene, smallest_area

SIZE = (128, 160)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(index, seed=5, size=SIZE) for index in range(200)]


def test_a_scene_is_a_function_of_seed_index_and_size(scenes):
    again = draw_scene(17, seed=5, size=SIZE)
    np.testing.assert_array_equal(again.pixels, scenes[17].pixels)
    np.testing.assert_array_equal(again.ids, scenes[17].ids)
    assert again.label_ids == scenes[17].label_ids


def test_another_index_and_another_seed_are_other_scenes(scenes):
    assert len({scene.pixels.tobytes() for scene in scenes}) == len(scenes)
    assert (draw_scene(17, seed=6, size=SIZE).pixels != scenes[17].pixels).any()


def test_every_segment_has_pixels_enough_and_every_pixel_its_segment(scenes):
    for index, scene in enumerate(scenes):
        areas = np.bincount(scene.ids.ravel(), minlength=len(scene.label_ids) + 1)
        assert len(areas) == len(scene.label_ids) + 1, index
        assert areas[1:].min() >= smallest_area(SIZE), index
        # Void is what is left of stuff of which too little shows: less than that for each.
        assert areas[0] < 4 * smallest_area(SIZE), index
        assert areas.sum() == SIZE[0] * SIZE[1]


def test_stuff_is_one_segment_for_each_label_and_all_labels_occur(scenes):
    things = {LABELS.index(name) for name in THINGS}
    images_of: Counter[int] = Counter()
    for scene in scenes:
        stuff = [label for label in scene.label_ids if label not in things]
        assert len(stuff) == len(set(stuff))
        images_of.update(set(scene.label_ids))
    assert set(images_of) == set(range(len(LABELS)))
    assert min(images_of.values()) >= 40, "each label should be in a fifth of the scenes"


def test_things_hide_each_other(scenes):
    """Some thing's box holds pixels of another in most scenes."""
    things = {LABELS.index(name) for name in THINGS}

    def overlap(scene: Scene) -> bool:
        of_thing = np.array([False, *(label in things for label in scene.label_ids)])
        for number in np.flatnonzero(of_thing):
            rows, columns = np.nonzero(scene.ids == number)
            box = scene.ids[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            if (of_thing[box] & (box != number)).any():
                return True
        return False

    assert np.mean([overlap(scene) for scene in scenes]) > 0.6


def test_boats_float_and_houses_and_cars_stand_on_land(scenes):
    """Looks at what lies a little below a thing, and is no thing itself."""
    stuff_below = {label: Counter() for label in ("boat", "house", "car")}
    for scene in scenes:
        label_of = np.array([0, *scene.label_ids])
        for number, label in enumerate(scene.label_ids, start=1):
            if LABELS[label] not in stuff_below:
                continue
            rows, columns = np.nonzero(scene.ids == number)
            row = rows.max() + 2
            if row >= SIZE[0]:
                continue
            ids = scene.ids[row, columns[rows == rows.max()]]
            labels = label_of[ids[ids > 0]]
            stuff_below[LABELS[label]].update(LABELS[each] for each in labels if each < 4)
    for label, below in stuff_below.items():
        suits = below["water"] if label == "boat" else below["ground"] + below["road"]
        assert suits > 0.97 * below.total() > 100, (label, below)


def test_the_map_follows_the_picture():
    """Across the edges of segments colours change far more than inside of them."""
    across, inside = [], []
    for index in range(30):
        scene = draw_scene(index, seed=8, size=SIZE)
        # Three pixels apart: edges are some pixels soft.
        step = np.abs(np.diff(scene.pixels[:, ::3].astype(int), axis=1)).sum(-1)
        is_edge = scene.ids[:, ::3][:, 1:] != scene.ids[:, ::3][:, :-1]
        across.append(step[is_edge].mean())
        inside.append(step[~is_edge].mean())
    assert np.mean(across) > 3 * np.mean(inside)


def test_the_truth_judged_by_itself_has_a_panoptic_quality_of_one(scenes):
    quality = PanopticQuality(len(LABELS), [LABELS.index(name) for name in THINGS])
    for scene in scenes[:20]:
        info = [{"id": n, "label_id": label} for n, label in enumerate(scene.label_ids, start=1)]
        picture = {"segmentation": scene.ids.astype(np.int32), "segments_info": info}
        quality.update(picture, picture)
    assert quality.compute()["pq"] == 1


@pytest.mark.parametrize("size", [(64, 64), (96, 300), (300, 96), (480, 640), (1200, 1100)])
def test_scenes_of_any_size(size):
    scene = draw_scene(3, seed=5, size=size)
    assert scene.pixels.shape == (*size, 3)
    assert scene.ids.shape == size
    assert len(scene.label_ids) >= 2
