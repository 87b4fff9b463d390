"""Chooses the images of each step, and seeds their augmentation.

Both depend on the seed, the epoch and the image's index alone, and neither on the number of workers
nor on whether a run was resumed. Epochs follow each other without a gap, so that a step may hold
the end of one and the beginning of the next. Where several data sets are mixed by weights, each has
epochs of its own.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from pipeline.runtime.wording import count

_OF_ORDER, _OF_SAMPLES, _OF_MIXTURE = 0, 1, 2
_ROUND = 10_000
"""Draws after which each data set was drawn exactly by its weight."""


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """The index of an image, and the epoch in which it is drawn."""

    epoch: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Data sets, one behind the other, and how often each is drawn from."""

    sizes: tuple[int, ...]
    """Numbers of images."""
    weights: tuple[float, ...]
    """Shares of the drawn images, in any unit."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.sizes):
            raise ValueError(
                f"dataset_weights must be one for each of {count(len(self.sizes), 'data set')}, "
                f"got {len(self.weights)}"
            )
        if not min(self.weights) > 0 or sum(self.weights) == float("inf"):
            raise ValueError(f"dataset_weights must be above 0, got {list(self.weights)}")
        if min(self.draws) < 1:
            raise ValueError(
                f"dataset_weights must be at least a {_ROUND:,}th of their sum, got "
                f"{list(self.weights)}"
            )

    @property
    def draws(self) -> tuple[int, ...]:
        """Returns how many of each round's draws are from each data set; the sum is a round."""
        ends = [round(_ROUND * sum(self.weights[: n + 1]) / sum(self.weights))
                for n in range(len(self.weights))]  # fmt: skip
        return tuple(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))


def step_indices(
    step: int, *, global_batch: int, num_images: int, seed: int, mixture: Mixture | None = None
) -> list[SampleIndex]:
    """Returns the images of an optimiser step, for all workers together; steps count from 0.

    Args:
        mixture: the data sets that the images are of; None to draw each image once in an epoch.
    """
    first = step * global_batch
    indices = []
    for position in range(first, first + global_batch):
        if mixture is not None:
            indices.append(_mixed_index(position, mixture=mixture, seed=seed))
            continue
        epoch, within = divmod(position, num_images)
        index = int(epoch_order(num_images, epoch=epoch, seed=seed)[within])
        indices.append(SampleIndex(epoch=epoch, index=index))
    return indices


def _mixed_index(position: int, *, mixture: Mixture, seed: int) -> SampleIndex:
    """Returns the image that is drawn at a position; no earlier position needs to be known."""
    number, within = divmod(position, _ROUND)
    parts, ranks = _round_order(mixture.draws, number=number, seed=seed)
    part = int(parts[within])
    drawn = number * mixture.draws[part] + int(ranks[within])
    epoch, of_epoch = divmod(drawn, mixture.sizes[part])
    order = epoch_order(mixture.sizes[part], epoch=epoch, seed=seed, part=part)
    return SampleIndex(epoch=epoch, index=sum(mixture.sizes[:part]) + int(order[of_epoch]))


@lru_cache(maxsize=4)
def _round_order(
    draws: tuple[int, ...], *, number: int, seed: int
) -> tuple[Int64[np.ndarray, " draws"], Int64[np.ndarray, " draws"]]:
    """Returns the data set of each draw of a round, and how often it was drawn in it before."""
    key = (_OF_MIXTURE, number)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    parts = random.permutation(np.repeat(np.arange(len(draws)), draws))
    ranks = np.empty(len(parts), np.int64)
    for part, length in enumerate(draws):
        ranks[parts == part] = np.arange(length)
    return parts, ranks


@lru_cache(maxsize=16)
def epoch_order(
    num_images: int, *, epoch: int, seed: int, part: int = 0
) -> Int64[np.ndarray, " num_images"]:
    """Returns the indices of all images of a data set in the order of an epoch.

    Args:
        part: number of the data set in a mixture.
    """
    key = (_OF_ORDER, epoch, part) if part else (_OF_ORDER, epoch)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
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
