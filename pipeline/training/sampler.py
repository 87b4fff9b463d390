"""Chooses the images of each step, and seeds their augmentation.

Both depend on the seed, the epoch and the image's index alone, and neither on the number of workers
nor on whether a run was resumed. Epochs follow each other without a gap, so that a step may hold
the end of one and the beginning of the next.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from pipeline.runtime.wording import count

_OF_ORDER, _OF_SAMPLES = 0, 1


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """The index of an image, and the epoch in which it is drawn."""

    epoch: int
    index: int


def step_indices(step: int, *, global_batch: int, num_images: int, seed: int) -> list[SampleIndex]:
    """Returns the images of an optimiser step, for all workers together; steps count from 0."""
    first = step * global_batch
    indices = []
    for position in range(first, first + global_batch):
        epoch, within = divmod(position, num_images)
        index = int(epoch_order(num_images, epoch=epoch, seed=seed)[within])
        indices.append(SampleIndex(epoch=epoch, index=index))
    return indices


@lru_cache(maxsize=4)
def epoch_order(num_images: int, *, epoch: int, seed: int) -> Int64[np.ndarray, " num_images"]:
    """Returns the indices of all images in the order of an epoch."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_OF_ORDER, epoch)))
    indices = random.permutation(num_images)
    indices.flags.writeable = False  # the cache keeps it
    return indices


def sample_random(sample_index: SampleIndex, *, seed: int) -> np.random.Generator:
    """Returns the random generator of one image in one epoch."""
    key = (_OF_SAMPLES, sample_index.epoch, sample_index.index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def worker_share(
    indices: list[SampleIndex], *, rank: int, world_size: int, micro_batches: int
) -> list[list[SampleIndex]]:
    """Returns the micro-batches of one worker, in sizes as equal as possible.

    Raises:
        ValueError: some micro-batch would be empty.
    """
    if len(indices) < world_size * micro_batches:
        raise ValueError(
            "a global batch must have an image for each micro-batch, got "
            f"{count(len(indices), 'image')} for {count(world_size, 'worker')} with "
            f"{count(micro_batches, 'micro-batch', 'micro-batches')} each; raise the batch, or "
            "lower the others"
        )
    return [
        _slice(_slice(indices, rank, world_size), micro, micro_batches)
        for micro in range(micro_batches)
    ]


def _slice(indices: list[SampleIndex], part: int, num_parts: int) -> list[SampleIndex]:
    return indices[len(indices) * part // num_parts : len(indices) * (part + 1) // num_parts]
