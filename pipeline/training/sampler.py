"""Order: which images each step learns from, and where all chance comes from.

All is a function of the seed, the epoch and the image's number: not of how many workers there are,
nor of whether a run has just begun or goes on. Epochs follow each other without a gap, so that a
step may hold the end of one and the beginning of the next.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

_OF_ORDER, _OF_SAMPLES = 0, 1


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """An image's turn in an epoch."""

    epoch: int
    index: int


def step_indices(step: int, *, global_batch: int, num_images: int, seed: int) -> list[SampleIndex]:
    """Returns the images of an optimiser step, for all workers together; steps count from 0."""
    first = step * global_batch
    indices = []
    for place in range(first, first + global_batch):
        epoch, within = divmod(place, num_images)
        index = int(order(num_images, epoch=epoch, seed=seed)[within])
        indices.append(SampleIndex(epoch=epoch, index=index))
    return indices


@lru_cache(maxsize=4)
def order(num_images: int, *, epoch: int, seed: int) -> Int64[np.ndarray, " num_images"]:
    """The images in the order of an epoch: each of them once."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_OF_ORDER, epoch)))
    indices = random.permutation(num_images)
    indices.flags.writeable = False  # it is kept for the next caller
    return indices


def sample_random(sample_index: SampleIndex, *, seed: int) -> np.random.Generator:
    """Where the draws for one image in one epoch come from."""
    key = (_OF_SAMPLES, sample_index.epoch, sample_index.index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def worker_share(
    indices: list[SampleIndex], *, rank: int, world_size: int, micro_batches: int
) -> list[list[SampleIndex]]:
    """The micro-batches of one worker, in the sizes that are most alike.

    Raises:
        ValueError: some micro-batch would be empty.
    """
    if len(indices) < world_size * micro_batches:
        raise ValueError(
            f"a global batch must have an image for each micro-batch, got {len(indices)} for "
            f"{world_size} workers with {micro_batches} micro-batches each; raise the batch, or "
            "lower the others"
        )
    return [
        _slice(_slice(indices, rank, world_size), micro, micro_batches)
        for micro in range(micro_batches)
    ]


def _slice(indices: list[SampleIndex], part: int, num_parts: int) -> list[SampleIndex]:
    return indices[len(indices) * part // num_parts : len(indices) * (part + 1) // num_parts]
