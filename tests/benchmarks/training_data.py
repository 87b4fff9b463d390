"""Samples made in a second by one core, beside torchvision's own transforms.

Street scenes (drawn ones where there are none), published recipe with crops of 512: decoded,
resized, cropped, jittered, mirrored, padded. torchvision's side is RandomShortestSize, RandomCrop,
RandomPhotometricDistort and RandomHorizontalFlip on the same decoded images and maps, in turns.
`host_ms_per_image` is what the training process itself has to do for an image that a loading
process has made: receive, pad, normalise. Prints one JSON line.

    python tests/benchmarks/training_data.py [--shared ../shared] [--images 60] [--repeats 3]
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from maskformer import IdMap, MaskFormerImageProcessor
from pipeline.corpora.decoding import decode
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.demo.scenes.shards import write_shards
from pipeline.training.loading import load_batches
from pipeline.training.recipes import published_augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import TargetSettings

BATCH, STEPS = 8, 24


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    # A loading process has one core, too.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = _data(_dataset_uri(arguments.shared, folder=folder))
        count = min(arguments.images, len(data))
        rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
        for epoch in range(arguments.repeats):
            for side, sample in (("ours", _ours), ("torchvision", _torchvision(data))):
                rates[side].append(_rate(sample, data, epoch=epoch, count=count))
        host_seconds, loaded = _host(data)
    ours, theirs = (statistics.median(rates[side]) for side in ("ours", "torchvision"))
    result = {
        "benchmark": "training_data",
        "images": data.dataset.uri.rpartition("/")[2],
        "samples_per_second": round(ours, 1),
        "torchvision_samples_per_second": round(theirs, 1),
        "ratio": round(ours / theirs, 2),
        "host_ms_per_image": round(1000 * host_seconds, 2),
        "loaded_per_second_by_one_process": round(loaded, 1),
    }
    print(json.dumps(result))


def _dataset_uri(shared: Path, *, folder: str) -> str:
    street = shared / "data" / "camvid" / "train-0000.tar"
    if street.is_file():
        return str(street)
    drawn = str(Path(folder, "drawn"))
    write_shards(drawn, num_images=60, seed=1, sizes=((360, 480),))
    return drawn


def _data(uri: str) -> TrainingData:
    return TrainingData(
        dataset=open_labelled(DatasetSettings(dataset=uri)),
        augmentation=published_augmentation("maskformer-swin-tiny-ade20k"),
        processor=MaskFormerImageProcessor(),
        seed=1,
        targets=TargetSettings(task="semantic"),
    )


def _ours(data: TrainingData, epoch: int, index: int) -> object:
    return data.sample(epoch, index)


def _torchvision(data: TrainingData) -> Callable[[TrainingData, int, int], object]:
    settings = data.augmentation
    assert settings.crop is not None
    transform = v2.Compose(
        [
            v2.RandomShortestSize(list(settings.short_edges), max_size=settings.max_edge),
            v2.RandomCrop(
                list(settings.crop),
                pad_if_needed=True,
                fill={tv_tensors.Image: 128, tv_tensors.Mask: 0},
            ),
            v2.RandomPhotometricDistort(),
            v2.RandomHorizontalFlip(),
        ]
    )

    def sample(data: TrainingData, epoch: int, index: int) -> object:
        labelled = data.dataset[index]
        decoded = decode(labelled.image.data or b"", name="", max_pixels=10**8)
        target = data.rule(labelled.target)
        pixels, ids = transform(
            tv_tensors.Image(torch.from_numpy(np.array(decoded.image)).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(target.ids)),
        )
        left = ids.unique()
        return pixels, IdMap(map=ids, ids=left[left > 0])

    return sample


def _rate(
    sample: Callable[[TrainingData, int, int], object],
    data: TrainingData,
    *,
    epoch: int,
    count: int,
) -> float:
    sample(data, epoch, 0)
    began = time.perf_counter()
    for index in range(count):
        sample(data, epoch, index)
    return count / (time.perf_counter() - began)


def _host(data: TrainingData) -> tuple[float, float]:
    """CPU seconds of this process per image, and images per second, with one loading process."""
    batches = load_batches(
        data, steps=range(STEPS), global_batch=BATCH, rank=0, world_size=1, micro_batches=1,
        num_processes=1, device="cpu",
    )  # fmt: skip
    for _ in range(4):  # the process starts and fills its queue
        next(batches)
    began, cpu = time.perf_counter(), time.process_time()
    # Stops before the end, where the process is waited for.
    num_images = BATCH * sum(1 for _ in itertools.islice(batches, STEPS - 5))
    return (
        (time.process_time() - cpu) / num_images,
        num_images / (time.perf_counter() - began),
    )


if __name__ == "__main__":
    main()
