"""Samples: the masks that a task asks for, of what is left of an image."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from as_files import encode_image
from corpora import parquet, put, tar
from drawn_labels import (
    LABELS,
    Scene,
    coco_instances,
    label_maps,
    names_json,
    panoptic_shards,
    scenes,
    segments_info,
    shards,
    write_table,
)
from PIL import ExifTags, Image

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.training.batches import TrainingSample
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import TargetSettings

AS_IT_IS = Augmentation(flip=False)
MUCH = Augmentation(short_edges=(30, 44, 60), crop=(24, 24), colour_jitter=True)


def data_of(
    files: dict[str, bytes] | str,
    folder: Path,
    *,
    name: str = "",
    augmentation: Augmentation = AS_IT_IS,
    model_labels: tuple[str, ...] | None = None,
    **targets: object,
) -> TrainingData:
    root = files if isinstance(files, str) else put(folder, files)
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=f"{root}/{name}" if name else root)),
        augmentation=augmentation,
        processor=MaskFormerImageProcessor(do_resize=False),
        seed=3,
        targets=TargetSettings(**targets),
        model_labels=model_labels,
    )


def target_masks(sample: TrainingSample) -> list[tuple[int, np.ndarray]]:
    """Label and mask of each target."""
    found = sample.targets
    return [
        (int(label), (found.map == mask_id).numpy())
        for label, mask_id in zip(sample.class_labels, found.ids, strict=True)
    ]


def same(found: list[tuple[int, np.ndarray]], expected: list[tuple[int, np.ndarray]]) -> bool:
    return [label for label, _ in found] == [label for label, _ in expected] and all(
        np.array_equal(mask, other) for (_, mask), (_, other) in zip(found, expected, strict=True)
    )


def by_label(scene: Scene) -> list[tuple[int, np.ndarray]]:
    return [(label, scene.label_map == label) for label in range(4)]


def by_segment(scene: Scene) -> list[tuple[int, np.ndarray]]:
    return [(label, scene.ids == key) for key, label in scene.label_of.items()]


def test_semantic_targets_are_one_mask_for_each_label(tmp_path: Path) -> None:
    for number, files in enumerate([label_maps(scenes()), panoptic_shards(scenes())]):
        data = data_of(files, tmp_path / str(number), task="semantic")
        for index, scene in enumerate(scenes()):
            sample = data.sample(0, index)
            assert same(target_masks(sample), by_label(scene))
            assert sample.valid is None
            assert scene.name in sample.image_id


def test_panoptic_targets_are_one_mask_for_each_segment(tmp_path: Path) -> None:
    data = data_of(panoptic_shards(scenes()), tmp_path)
    assert data.rule.task == "panoptic"  # what the labels tell at most
    for index, scene in enumerate(scenes()):
        assert same(target_masks(data.sample(0, index)), by_segment(scene))


def test_instance_targets_are_the_things(tmp_path: Path) -> None:
    things = ("tree", "car")
    made = [
        data_of(panoptic_shards(scenes()), tmp_path / "0", task="instance"),
        data_of(panoptic_shards(scenes()), tmp_path / "1", task="instance", model_labels=things),
        data_of(coco_instances(scenes()), tmp_path / "2", name="annotations/instances_val.json"),
    ]
    for data, first in zip(made, (2, 0, 0), strict=True):
        for index, scene in enumerate(scenes()):
            expected = [(label - 2 + first, mask) for label, mask in by_segment(scene)[2:]]
            assert same(target_masks(data.sample(0, index)), expected)


def test_a_segment_table_can_be_learnt_from(tmp_path: Path) -> None:
    data = data_of(write_table(tmp_path, scenes()), tmp_path)
    for index, scene in enumerate(scenes()):
        assert same(target_masks(data.sample(0, index)), by_segment(scene))


def test_labels_are_those_of_the_model_by_their_names(tmp_path: Path) -> None:
    names = ("car", "sky", "road", "tree")
    for files, task in ((shards(scenes()), "semantic"), (panoptic_shards(scenes()), "panoptic")):
        data = data_of(files, tmp_path / task, model_labels=names, task=task)
        scene = scenes()[0]
        found = target_masks(data.sample(0, 0))
        assert {label for label, _ in found} == {0, 1, 2, 3}
        for label, mask in found:
            assert set(scene.label_map[mask]) == {LABELS.index(names[label])}


def crowded(drawn: list[Scene]) -> dict[str, bytes]:
    """The last car of each scene stands for many."""
    columns = {
        "image": [scene.jpeg for scene in drawn],
        "label": [encode_image(scene.ids.astype(np.uint8)) for scene in drawn],
        "segments_info": [
            [{**each, "iscrowd": int(each["id"] == 5)} for each in segments_info(scene)]
            for scene in drawn
        ],
    }
    return {"labels.json": names_json(), "rows.parquet": parquet(columns)}


def test_crowds_are_no_targets_of_their_own(tmp_path: Path) -> None:
    scene = scenes()[0]
    data = data_of(crowded(scenes()), tmp_path)
    assert same(target_masks(data.sample(0, 0)), by_segment(scene)[:-1])
    semantic = data_of(crowded(scenes()), tmp_path, task="semantic")
    assert same(target_masks(semantic.sample(0, 0)), by_label(scene))


def test_void_and_crowds_can_be_left_out(tmp_path: Path) -> None:
    scene = scenes()[0]
    data = data_of(crowded(scenes()), tmp_path, ignore_void=True)
    valid = data.sample(0, 0).valid
    assert valid is not None
    np.testing.assert_array_equal(valid.numpy(), (scene.ids != 0) & (scene.ids != 5))


def test_grey_padding_is_void(tmp_path: Path) -> None:
    settings = Augmentation(crop=(50, 50), pad_to_crop=True, flip=False)
    data = data_of(shards(scenes()), tmp_path, augmentation=settings, ignore_void=True)
    sample = data.sample(0, 0)
    assert sample.pixels.shape[1:] == sample.targets.map.shape == (50, 50)
    assert sample.valid is not None
    assert not sample.valid[36:].any()
    assert not sample.targets.map[36:].any()


def test_what_a_crop_left_nothing_of_is_no_target(tmp_path: Path) -> None:
    settings = Augmentation(crop=(8, 8))
    data = data_of(panoptic_shards(scenes()), tmp_path, augmentation=settings)
    counts = set()
    for epoch in range(40):
        sample = data.sample(epoch, 0)
        assert all(mask.any() for _, mask in target_masks(sample))
        assert len(sample.targets.ids) == len(sample.class_labels)
        counts.add(len(sample.class_labels))
    assert {1, 2, 3} <= counts


def test_an_image_without_labels_is_a_sample_without_targets(tmp_path: Path) -> None:
    scene = scenes()[0]
    files = {
        "labels.json": names_json(),
        "a.jpg": scene.jpeg,
        "a.png": encode_image(np.full((36, 48), 255, np.uint8)),
    }
    sample = data_of({"labels.json": files.pop("labels.json"), "x.tar": tar(files.items())},
                     tmp_path, augmentation=MUCH).sample(0, 0)  # fmt: skip
    assert sample.targets.shape[0] == len(sample.class_labels) == 0
    assert sample.class_labels.dtype == torch.int64


def test_a_sample_is_the_same_in_another_process_and_order(tmp_path: Path) -> None:
    data = data_of(panoptic_shards(scenes()), tmp_path, augmentation=MUCH)
    forward = {(e, i): data.sample(e, i).pixels.numpy().tobytes() for e in (0, 7) for i in range(3)}
    back = {(e, i): data.sample(e, i).pixels.numpy().tobytes() for e, i in reversed(forward)}
    assert forward == back
    assert len(set(forward.values())) == 6
    torch.manual_seed(99)
    np.random.seed(99)
    code = (
        "import hashlib, sys; sys.path[:0] = sys.argv[1:4]\n"
        "from pathlib import Path; import test_training_samples as t\n"
        "data = t.data_of(sys.argv[4], Path('.'), augmentation=t.MUCH)\n"
        "print(hashlib.sha256(data.sample(7, 2).pixels.numpy().tobytes()).hexdigest())"
    )
    here = Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, [here, here.parent, here.parents[1], tmp_path])],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.strip() == hashlib.sha256(forward[7, 2]).hexdigest()


def test_seeds_see_images_differently(tmp_path: Path) -> None:
    first = data_of(shards(scenes()), tmp_path, augmentation=MUCH)
    other = TrainingData(
        dataset=first.dataset, augmentation=MUCH, processor=first.processor, seed=4
    )
    assert not torch.equal(first.sample(0, 0).pixels, other.sample(0, 0).pixels)


def test_a_sample_carries_no_more_than_itself(tmp_path: Path) -> None:
    data = data_of(shards(scenes()), tmp_path, augmentation=Augmentation(crop=(8, 8)))
    for epoch in range(4):
        sample = data.sample(epoch, 0)
        assert sample.pixels.untyped_storage().nbytes() == 3 * 8 * 8
        assert sample.targets.map.untyped_storage().nbytes() == 8 * 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b.png": encode_image(np.zeros((36, 47), np.uint8))}, "image .*/b: .*36 x 48 .* 36 x 47"),
        ({"b.png": encode_image(np.full((36, 48), 9, np.uint8))}, "image .*/b.* the map holds 9"),
        ({"b.png": encode_image(scenes()[0].label_map)[:-40]}, "image .*/b.*cannot be decoded"),
        ({"b.jpg": scenes()[0].jpeg[:-60]}, "image .*/b: TruncatedImage"),
    ],
)
def test_what_is_wrong_is_told_with_its_image(
    change: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    scene = scenes()[0]
    members = {f"{name}.{kind}": data for name in "ab" for kind, data in
               (("jpg", scene.jpeg), ("png", encode_image(scene.label_map)))}  # fmt: skip
    files = {"labels.json": names_json(), "x.tar": tar({**members, **change}.items())}
    data = data_of(files, tmp_path)
    data.sample(0, 0)
    with pytest.raises(LabelError, match=said):
        data.sample(0, 1)


def test_a_task_that_the_labels_cannot_teach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has labels and cannot teach the task panoptic"):
        data_of(shards(scenes()), tmp_path, task="panoptic")
    files = panoptic_shards(scenes()) | {"labels.json": json.dumps(list(LABELS)).encode()}
    with pytest.raises(ValueError, match="has no things among its labels"):
        data_of(files, tmp_path / "stuff", task="instance")


def test_data_may_have_some_of_the_model_s_labels_and_no_others(tmp_path: Path) -> None:
    data = data_of(shards(scenes()), tmp_path, model_labels=("boat", *reversed(LABELS)))
    assert data.rule.label_ids == (4, 3, 2, 1)
    with pytest.raises(ValueError, match="only the data has 'car'"):
        data_of(shards(scenes()), tmp_path, model_labels=LABELS[:3])


def test_a_seed_is_not_negative(tmp_path: Path) -> None:
    data = data_of(shards(scenes()), tmp_path)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        TrainingData(dataset=data.dataset, augmentation=MUCH, processor=data.processor, seed=-1)


def test_street_scenes_at_the_published_recipe(shared: Path) -> None:
    data = data_of(
        str(shared / "data" / "camvid" / "val-0000.tar"),
        Path(),
        augmentation=Augmentation(
            short_edges=(180, 360, 540), crop=(256, 256), colour_jitter=True, pad_to_crop=True
        ),
    )
    for index in range(5):
        sample = data.sample(0, index)
        assert sample.pixels.shape == (3, 256, 256)
        assert len(sample.class_labels) >= 3
        assert int(sample.class_labels.max()) < 11


def test_labels_of_a_stored_photograph_are_learnt_upright(tmp_path: Path) -> None:
    (scene,) = scenes(1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = encode_image(np.rot90(np.asarray(scene.photo)), "JPEG", exif=exif)
    files = label_maps([scene])
    files[f"images/val/{scene.name}.jpg"] = turned
    upright = target_masks(data_of(files, tmp_path / "upright").sample(0, 0))
    files[f"annotations/val/{scene.name}.png"] = encode_image(np.rot90(scene.label_map).copy())
    assert same(target_masks(data_of(files, tmp_path / "stored").sample(0, 0)), upright)
