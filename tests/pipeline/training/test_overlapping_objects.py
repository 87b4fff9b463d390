"""Objects that overlap are learnt whole, each as if it were alone, and crowds hide none."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import put
from drawn_labels import coco_objects, overlapping_objects
from small_model import small_model

from maskformer import IdMap, MaskFormerImageProcessor, MaskRuns
from maskformer.criterion.targets import expand_masks
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.training.batches import TrainingSample, collate
from pipeline.training.loading import load_batches
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import TargetSettings

AUGMENTATIONS = {
    "as it is": Augmentation(flip=False),
    "semantic recipe": Augmentation(
        short_edges=(21, 36, 61), crop=(30, 33), colour_jitter=True, pad_to_crop=True
    ),
    "detr": Augmentation(
        short_edges=(25, 40, 70), max_edge=90, crop_short_edges=(30, 50), crop_range=(15, 40)
    ),
    "scale jitter": Augmentation(scale_jitter=(0.3, 1.7), crop=(40, 44), pad_to_crop=True),
}


def object_data(objects: list, folder: Path, *, how: str = "as it is", **targets: object):
    root = put(folder, coco_objects(objects))
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=f"{root}/instances.json")),
        augmentation=AUGMENTATIONS[how],
        processor=MaskFormerImageProcessor(do_resize=False),
        seed=5,
        targets=TargetSettings(**targets),
    )


def expanded_masks(sample: TrainingSample) -> np.ndarray:
    return expand_masks(sample.targets).numpy()


def learnt() -> list[tuple[np.ndarray, str, bool]]:
    return [each for each in overlapping_objects() if not each[2]]


def test_each_object_is_learnt_whole_and_crowds_are_not(tmp_path: Path) -> None:
    data = object_data(overlapping_objects(), tmp_path)
    sample = data.sample(0, 0)
    assert isinstance(sample.targets, MaskRuns)
    np.testing.assert_array_equal(expanded_masks(sample), [mask for mask, _, _ in learnt()])
    assert sample.class_labels.tolist() == [0, 1, 0, 0, 1]
    assert sample.valid is None


@pytest.mark.parametrize("how", AUGMENTATIONS)
def test_an_object_among_others_is_learnt_as_it_is_alone(how: str, tmp_path: Path) -> None:
    together = object_data(overlapping_objects(), tmp_path / "all", how=how)
    alone = [
        object_data([each], tmp_path / str(number), how=how) for number, each in enumerate(learnt())
    ]
    for epoch in range(12):
        sample = together.sample(epoch, 0)
        expected = [data.sample(epoch, 0) for data in alone]
        assert all(isinstance(each.targets, IdMap) for each in expected)
        shown = [each for each in expected if len(each.class_labels)]
        labels = [int(label) for each in shown for label in each.class_labels]
        assert sample.class_labels.tolist() == labels
        masks = [mask for each in shown for mask in expanded_masks(each)]
        if masks:
            np.testing.assert_array_equal(expanded_masks(sample), masks)
        assert torch.equal(sample.pixels, expected[0].pixels)


def test_a_crowd_hides_no_object_and_needs_no_runs(tmp_path: Path) -> None:
    car, crowd = overlapping_objects()[4:]
    sample = object_data([car, crowd], tmp_path, ignore_void=True).sample(0, 0)
    assert isinstance(sample.targets, IdMap)
    np.testing.assert_array_equal(expanded_masks(sample), [car[0]])
    assert sample.valid is not None
    np.testing.assert_array_equal(sample.valid.numpy(), car[0])


@pytest.mark.parametrize("how", AUGMENTATIONS)
def test_what_no_object_covers_can_be_left_out(how: str, tmp_path: Path) -> None:
    data = object_data(overlapping_objects(), tmp_path, how=how, ignore_void=True)
    for epoch in range(4):
        sample = data.sample(epoch, 0)
        assert sample.valid is not None
        np.testing.assert_array_equal(sample.valid.numpy(), expanded_masks(sample).any(0))


def test_a_batch_has_the_loss_of_whole_masks(tmp_path: Path) -> None:
    """Compares with whole masks as transformers takes them, beside a sample of another size."""
    samples = [
        object_data(overlapping_objects(), tmp_path / "a").sample(0, 0),
        object_data(learnt()[:1], tmp_path / "b", how="semantic recipe").sample(0, 0),
    ]
    batch = collate(samples, processor=MaskFormerImageProcessor(), padded_size=(64, 64))
    stacks = [torch.zeros(masks.shape) for masks in batch.mask_labels]
    for stack, sample in zip(stacks, samples, strict=True):
        masks = torch.from_numpy(expanded_masks(sample)).float()
        stack[:, : masks.shape[1], : masks.shape[2]] = masks
    model = small_model().eval()
    losses = [
        model(batch.pixel_values, mask_labels=masks, class_labels=batch.class_labels).loss
        for masks in (batch.mask_labels, stacks)
    ]
    assert torch.equal(*losses)


def test_more_objects_than_a_byte_counts_are_learnt(tmp_path: Path) -> None:
    mask = overlapping_objects()[0][0]
    sample = object_data([(mask, "tree", False)] * 300, tmp_path, how="detr").sample(1, 0)
    assert sample.targets.shape[0] == 300
    assert expanded_masks(sample).all(0).any()


_PREPARE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from maskformer import MaskFormerImageProcessor
    from pipeline.datasets.opening import open_labelled
    from pipeline.datasets.settings import DatasetSettings
    from pipeline.training.recipes import Augmentation
    from pipeline.training.samples import TrainingData

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    peaks = []
    for place in sys.argv[1:]:
        data = TrainingData(
            dataset=open_labelled(DatasetSettings(dataset=place)),
            augmentation=Augmentation(flip=False),
            processor=MaskFormerImageProcessor(do_resize=False),
            seed=0,
        )
        print(data.sample(0, 0).targets.shape[0], peak())
    """
)


def test_preparing_an_image_takes_memory_by_the_image_and_not_by_its_objects(
    tmp_path: Path,
) -> None:
    height, width = 1500, 2000
    mask = np.zeros((height, width), bool)
    mask[20:-20, 20:-20] = True
    few, many = (
        put(tmp_path / str(count), coco_objects([(mask, "tree", False)] * count))
        for count in (2, 100)
    )
    places = [f"{few}/instances.json", f"{many}/instances.json"]
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE, *places], check=True, capture_output=True, text=True
    )
    (of_few, before), (of_many, after) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert (of_few, of_many) == (2, 100)
    assert after - before < 40  # a mask of each would take 300


def test_masks_from_a_loader_process_are_those_made_here(tmp_path: Path) -> None:
    data = object_data(overlapping_objects(), tmp_path, how="detr")
    here, there = (
        [
            step[0]
            for step in load_batches(
                data, steps=range(3), global_batch=2, rank=0, world_size=1, micro_batches=1,
                num_processes=num_processes, device="cpu",
            )
        ]
        for num_processes in (0, 1)
    )  # fmt: skip
    for mine, other in zip(here, there, strict=True):
        assert torch.equal(mine.pixel_values, other.pixel_values)
        for masks, others in zip(mine.mask_labels, other.mask_labels, strict=True):
            assert torch.equal(expand_masks(masks), expand_masks(others))
