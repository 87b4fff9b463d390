"""Loads the batches of a worker, step by step, with torch's DataLoader.

Loader processes read, decode and augment ahead of time; the worker's own process pads, copies to
the device and normalises, beside a GPU in a thread and a step ahead. A sample is the same whichever
process makes it.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch

from pipeline.training.batches import Batch, TrainingSample, collate
from pipeline.training.loader_processes import LoaderProcesses
from pipeline.training.prefetch import prefetched
from pipeline.training.sampler import SampleIndex, step_indices, worker_share
from pipeline.training.samples import TrainingData

# A process makes so many samples at a time and reads their files at once.
_CHUNK = 4
_CHUNKS_AHEAD, _STEPS_AHEAD = 2, 2


def load_batches(
    data: TrainingData,
    *,
    steps: range,
    global_batch: int,
    rank: int,
    world_size: int,
    micro_batches: int,
    num_processes: int,
    device: torch.device | str,
    multiple: int = 1,
) -> Iterator[list[Batch]]:
    """Yields this worker's micro-batches of each step, on its device.

    Args:
        steps: the optimiser steps, from 0; a resumed run begins where the last one stopped.
        global_batch: images of a step, all workers together.
        num_processes: processes that decode and augment for this worker; with 0 it does so itself
            when a step asks for its batches.
        multiple: both sides of each batch are padded to multiples of it.

    Raises:
        LabelError: an image is damaged; raised at its step.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
        RuntimeError: a loader process died.
        ValueError: a micro-batch would be empty.
    """

    def share(step: int) -> list[list[SampleIndex]]:
        indices = step_indices(
            step,
            global_batch=global_batch,
            num_images=len(data),
            seed=data.seed,
            mixture=data.mixture,
        )
        return worker_share(indices, rank=rank, world_size=world_size, micro_batches=micro_batches)

    # Checks the sizes before a process starts.
    chunks_per_step = sum(math.ceil(len(indices) / _CHUNK) for indices in share(steps.start))
    chunks = (
        indices[first : first + _CHUNK]
        for step in steps
        for indices in share(step)
        for first in range(0, len(indices), _CHUNK)
    )
    if num_processes:
        ahead = max(_CHUNKS_AHEAD, math.ceil(_STEPS_AHEAD * chunks_per_step / num_processes))
        samples: Iterator[TrainingSample] = iter(
            LoaderProcesses(
                functools.partial(_make_samples, data),
                chunks,
                num_processes=num_processes,
                chunks_ahead=ahead,
            )
        )
    else:
        samples = (sample for chunk in chunks for sample in _make_samples(data, chunk))
    batches = _batches(data, samples, shares=map(share, steps), device=device, multiple=multiple)
    # A CPU that trains has no time between steps in which a thread could work.
    return prefetched(batches, device=device) if torch.device(device).type == "cuda" else batches


def _batches(
    data: TrainingData,
    samples: Iterator[TrainingSample],
    *,
    shares: Iterable[list[list[SampleIndex]]],
    device: torch.device | str,
    multiple: int,
) -> Iterator[list[Batch]]:
    for micro_batches in shares:
        yield [
            collate(
                list(islice(samples, len(indices))),
                processor=data.processor,
                device=device,
                padded_size=data.augmentation.padded_size,
                multiple=multiple,
            )
            for indices in micro_batches
        ]


def _make_samples(data: TrainingData, indices: Sequence[SampleIndex]) -> list[TrainingSample]:
    """Reads files at once, since storage may be far; works on pixels one image after another."""
    with ThreadPoolExecutor(len(indices)) as pool:
        reads = [
            pool.submit(data.dataset.__getitem__, sample_index.index) for sample_index in indices
        ]
        return [
            data.augmented(read.result(), sample_index=sample_index)
            for sample_index, read in zip(indices, reads, strict=True)
        ]
