"""Batches are the same however many workers and processes make them, and wherever a run begins."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from as_files import encode_image
from corpora import put, tar
from drawn_labels import names_json, panoptic_shards, scenes, shards
from s3 import S3Server
from small_model import small_model

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import EncodedImage
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.storage import SourceChanged, Storage, StorageFault, join
from pipeline.training.batches import Batch, TrainingSample, collate
from pipeline.training.loading import load_batches
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import TargetSettings

MUCH = Augmentation(short_edges=(30, 44, 60), crop=(32, 32), colour_jitter=True, pad_to_crop=True)


def augmented_data(
    root: str, *, augmentation: Augmentation = MUCH, **others: object
) -> TrainingData:
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=root)),
        **{
            "augmentation": augmentation,
            "processor": MaskFormerImageProcessor(size_divisor=8),
            "seed": 5,
            **others,
        },
    )


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    """Seven scenes."""
    return augmented_data(put(tmp_path, panoptic_shards(scenes(7))))


def steps_of(data: TrainingData, steps: range = range(4), **others: int) -> list[list[Batch]]:
    settings = {
        "global_batch": 4, "rank": 0, "world_size": 1, "micro_batches": 1, "num_processes": 0,
    }  # fmt: skip
    return list(load_batches(data, steps=steps, device="cpu", **{**settings, **others}))


def fingerprints(batches: list[Batch]) -> Counter[tuple[str, bytes, bytes, tuple[int, ...]]]:
    """All that a step learns from, image by image."""
    return Counter(
        (
            batch.image_ids[image],
            batch.pixel_values[image].numpy().tobytes(),
            batch.mask_labels[image].map.numpy().tobytes(),
            tuple(batch.class_labels[image].tolist()),
        )
        for batch in batches
        for image in range(len(batch))
    )


def test_a_step_is_the_same_for_any_number_of_workers(data: TrainingData) -> None:
    alone = [fingerprints(step) for step in steps_of(data)]
    for world_size, micro_batches in ((1, 4), (2, 1), (2, 2), (4, 1), (3, 1)):
        shares = [
            steps_of(data, rank=rank, world_size=world_size, micro_batches=micro_batches)
            for rank in range(world_size)
        ]
        for step, whole in enumerate(alone):
            together = [batch for share in shares for batch in share[step]]
            assert len(together) == world_size * micro_batches
            assert fingerprints(together) == whole


def test_a_run_that_goes_on_sees_what_an_unbroken_one_sees(data: TrainingData) -> None:
    unbroken = [fingerprints(step) for step in steps_of(data, range(5))]
    resumed = [fingerprints(step) for step in steps_of(data, range(3, 5))]
    assert resumed == unbroken[3:]
    assert steps_of(data, range(5, 5)) == []


def test_processes_make_what_one_makes_alone(data: TrainingData) -> None:
    expected = [fingerprints(step) for step in steps_of(data)]
    state = torch.random.get_rng_state()
    assert [fingerprints(step) for step in steps_of(data, num_processes=2)] == expected
    assert torch.equal(torch.random.get_rng_state(), state)  # the model's chance is not touched


def test_an_error_in_a_process_is_the_one_that_names_the_image(tmp_path: Path) -> None:
    members = [
        member
        for name, label in (("a", 1), ("b", 77), ("c", 1))
        for member in (
            (f"{name}.jpg", scenes()[0].jpeg),
            (f"{name}.png", encode_image(np.full((36, 48), label, np.uint8))),
        )
    ]
    root = put(tmp_path, {"labels.json": names_json(), "x.tar": tar(members)})
    for num_processes in (0, 1):
        with pytest.raises(LabelError, match=r"^image x\.tar/b.* the map holds 77$"):
            steps_of(augmented_data(root), num_processes=num_processes)


def test_batches_come_from_a_bucket(s3: S3Server, s3_storage: Storage, tmp_path: Path) -> None:
    files = shards(scenes(4))
    for path, content in files.items():
        s3_storage.write(join("s3://test/training", path), content)
    there = open_labelled(DatasetSettings(dataset="s3://test/training"), storage=s3_storage)
    here = augmented_data(put(tmp_path, files))
    away = TrainingData(dataset=there, augmentation=MUCH, processor=here.processor, seed=here.seed)
    pixels = [
        [batch.pixel_values for batch in step]
        for one in (here, away)
        for step in steps_of(one, range(2), num_processes=int(one is away))
    ]
    torch.testing.assert_close(pixels[:2], pixels[2:], rtol=0, atol=0)


def test_more_micro_batches_than_images_are_refused_before_anything_starts(
    data: TrainingData,
) -> None:
    with pytest.raises(ValueError, match="4 images for 2 workers with 3 micro-batches each"):
        load_batches(
            data, steps=range(1), global_batch=4, rank=0, world_size=2, micro_batches=3,
            num_processes=0, device="cpu",
        )  # fmt: skip


def first_samples(data: TrainingData) -> list[TrainingSample]:
    return [data.sample(0, index) for index in range(2)]


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
def test_pixels_are_normalised_and_padded_with_0_as_the_processor_does(
    rule: str, tmp_path: Path
) -> None:
    processor = MaskFormerImageProcessor(do_resize=False, size_divisor=32, resize_rule=rule)
    settings = Augmentation(short_edges=(30, 40), flip=False)
    data = augmented_data(
        put(tmp_path, shards(scenes(6))),
        augmentation=settings,
        processor=processor,
        targets=TargetSettings(ignore_void=True),
    )
    made = [data.sample(0, index) for index in range(6)]
    assert len({sample.pixels.shape for sample in made}) == 2
    batch = collate(made, processor=processor)
    assert batch.pixel_values.shape == (6, 3, 64, 64)
    assert batch.valid is not None
    for image, sample in enumerate(made):
        _, height, width = sample.pixels.shape
        alone = processor(
            sample.pixels.permute(1, 2, 0).numpy(),
            return_tensors="pt",
            data_format="channels_first",
        ).pixel_values[0]
        torch.testing.assert_close(
            batch.pixel_values[image, :, :height, :width], alone[:, :height, :width]
        )
        assert batch.pixel_mask[image].sum() == height * width
        assert batch.pixel_mask[image, :height, :width].all()
        padding = ~batch.pixel_mask[image]
        assert not batch.pixel_values[image][:, padding].any()
        assert not batch.mask_labels[image].map[padding].any()
        assert not batch.valid[image][padding].any()
        assert 0 not in batch.mask_labels[image].ids
        np.testing.assert_array_equal(
            batch.mask_labels[image].map[:height, :width], sample.targets.map
        )


def test_a_batch_is_at_least_as_large_as_it_is_asked_for(data: TrainingData) -> None:
    processor = MaskFormerImageProcessor(size_divisor=32)
    settings = Augmentation(short_edges=(30, 40), pad_to=(60, 70))
    others = augmented_data(data.dataset.uri, augmentation=settings, processor=processor)
    assert {b.pixel_values.shape[2:] for step in steps_of(others) for b in step} == {(64, 96)}
    small = collate(first_samples(data), processor=processor)
    assert small.pixel_values.shape[2:] == (32, 32)


def test_sides_can_be_multiples_of_a_number_so_that_batches_have_few_sizes(
    data: TrainingData,
) -> None:
    settings = Augmentation(short_edges=(30, 70, 100))
    processor = MaskFormerImageProcessor(size_divisor=24)
    others = augmented_data(data.dataset.uri, augmentation=settings, processor=processor)
    batches = [
        batch for step in steps_of(others, range(3), global_batch=1, multiple=64) for batch in step
    ]
    sides = {side for batch in batches for side in batch.pixel_values.shape[2:]}
    assert all(side % 64 == 0 == side % 24 for side in sides)
    assert all(masks.shape[1:] == batch.pixel_values.shape[2:]
               for batch in batches for masks in batch.mask_labels)  # fmt: skip


def test_a_batch_moves_as_a_whole(data: TrainingData) -> None:
    batch = collate(first_samples(data), processor=data.processor)
    moved = collate(first_samples(data), processor=data.processor, device="meta")
    assert moved.image_ids == batch.image_ids
    again = batch.to("meta")
    assert again.valid is None
    assert again.pixel_values.shape == moved.pixel_values.shape
    parts = [moved.pixel_values, moved.pixel_mask, *moved.class_labels]
    parts += [again.pixel_values, again.pixel_mask, *again.class_labels, again.mask_labels[0].map]
    parts += [part for masks in moved.mask_labels for part in (masks.map, masks.ids)]
    assert {part.device.type for part in parts} == {"meta"}


def test_the_model_learns_from_a_batch(data: TrainingData) -> None:
    batch = collate(first_samples(data), processor=data.processor)
    model = small_model().train()
    loss = model(
        pixel_values=batch.pixel_values,
        pixel_mask=batch.pixel_mask,
        mask_labels=batch.mask_labels,
        class_labels=batch.class_labels,
    ).loss
    loss.backward()
    assert loss.isfinite()
    assert model.class_predictor.weight.grad.abs().sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_batch_on_a_gpu_is_that_on_the_cpu(data: TrainingData) -> None:
    for here, there in zip(
        steps_of(data),
        load_batches(data, steps=range(4), global_batch=4, rank=0, world_size=1, micro_batches=1,
                     num_processes=1, device="cuda"),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(there[0].pixel_values.cpu(), here[0].pixel_values)
        assert torch.equal(there[0].mask_labels[1].map.cpu(), here[0].mask_labels[1].map)


def test_a_process_that_dies_is_an_error_and_no_wait(data: TrainingData) -> None:
    batches = load_batches(
        data, steps=range(100), global_batch=4, rank=0, world_size=1, micro_batches=1,
        num_processes=1, device="cpu",
    )  # fmt: skip
    next(batches)
    (process,) = multiprocessing.active_children()
    process.kill()
    with pytest.raises(RuntimeError, match="one of 1 processes that load images died"):
        list(batches)


def test_a_process_that_dies_is_an_error_in_a_thread_too(data: TrainingData) -> None:
    """Ray Train calls a worker in a thread, in which no signal tells that a process died."""
    batches = load_batches(
        data, steps=range(100_000), global_batch=4, rank=0, world_size=1, micro_batches=1,
        num_processes=2, device="cpu",
    )  # fmt: skip
    raised: list[Exception] = []
    has_begun = threading.Event()

    def exhaust() -> None:
        try:
            for _ in batches:
                has_begun.set()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=exhaust, daemon=True)
    thread.start()
    assert has_begun.wait(60)
    process = multiprocessing.active_children()[0]
    process.kill()
    thread.join(60)
    [error] = raised
    assert "one of 2 processes that load images died" in str(error)
    assert str(process.pid) in str(error)


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class FailingImages(LabelledImages):
    """Images of which the last cannot be read."""

    error: type[Exception]

    def image(self, index: int) -> EncodedImage:
        if index == len(self) - 1:
            raise self.error("of the last image")
        return super().image(index)


MORE = [
    pytest.param(each, marks=pytest.mark.faults) for each in (SourceChanged, LabelError, KeyError)
]


@pytest.mark.parametrize("error", [StorageFault, Unpicklable, *MORE])
def test_an_error_of_a_sample_is_raised_as_itself(
    error: type[Exception], data: TrainingData
) -> None:
    failing = replace(data, dataset=FailingImages(**vars(data.dataset), error=error))
    expected = RuntimeError if error is Unpicklable else error
    with pytest.raises(expected, match="of the last image") as caught:
        steps_of(failing, num_processes=1)
    assert type(caught.value) is expected
    assert "Traceback" in str(caught.value.__cause__)


def test_a_worker_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    root = put(tmp_path, shards(scenes(2)))
    program = tmp_path / "killed.py"
    program.write_text(
        "import multiprocessing, os, signal, sys\n"
        "if __name__ == '__main__':\n"
        f"    sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (3, 2, 1, 0)]}\n"
        "    import test_batch_loading as tests\n"
        "    batches = tests.load_batches(tests.augmented_data(sys.argv[1]), steps=range(100),\n"
        "        global_batch=2, rank=0, world_size=1, micro_batches=1, num_processes=1,\n"
        "        device='cpu')\n"
        "    next(batches)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run(
        [sys.executable, str(program), root], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ran.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while _runs(int(ran.stdout)):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
