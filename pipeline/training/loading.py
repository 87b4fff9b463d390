"""Loads the batches of a worker, step by step, with torch's DataLoader.

Loader processes read, decode and augment ahead of time; the worker's own process pads, copies to
the device and normalises, beside a GPU in a thread and a step ahead. A sample is the same whichever
process makes it.
"""

import math
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.training.batches import Batch, TrainingSample, collate
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
            step, global_batch=global_batch, num_images=len(data), seed=data.seed
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
        samples = _load_ahead(
            data, chunks, num_processes=num_processes, num_ahead=_STEPS_AHEAD * chunks_per_step
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


def _load_ahead(
    data: TrainingData,
    chunks: Iterator[list[SampleIndex]],
    *,
    num_processes: int,
    num_ahead: int,
) -> Iterator[TrainingSample]:
    """Yields the samples of all chunks in order, with at least `num_ahead` chunks in the making."""
    loader = DataLoader(
        _Samples(data),
        batch_sampler=chunks,
        num_workers=num_processes,
        prefetch_factor=max(_CHUNKS_AHEAD, math.ceil(num_ahead / num_processes)),
        collate_fn=_unchanged,
        # Not forked: this process may hold threads and a GPU.
        multiprocessing_context="spawn",
        worker_init_fn=_start_process,
        # The DataLoader draws a seed, which would otherwise come from the model's generator.
        generator=torch.Generator(),
    )
    try:
        for made in loader:
            if isinstance(made, _Failure):
                raise made.error from LoaderTraceback(made.traceback)
            yield from made
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RuntimeError(
            f"one of {num_processes} processes that load images died, most often for lack of "
            f"memory; use fewer of them, or smaller crops ({' '.join(str(error).split())})"
        ) from error


class LoaderTraceback(Exception):
    """The traceback of an error in a loader process."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An error in a loader process; the DataLoader itself would change its message or class."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        text = "".join(traceback.format_exception(error))
        try:
            arrived = pickle.loads(pickle.dumps(error))
        except Exception:
            arrived = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error=arrived, traceback=text)


class _Samples(Dataset[TrainingSample]):
    """Makes the samples of a chunk in a loader process."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data

    def __getitems__(self, indices: Sequence[SampleIndex]) -> list[TrainingSample] | _Failure:
        try:
            return _make_samples(self._data, indices)
        except Exception as error:
            return _Failure.of(error)


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


def _unchanged(made: Any) -> Any:
    return made


def _start_process(_: int) -> None:
    # Tensors go through a pipe by value: torch would move them through shared memory, of which a
    # container may have 64 MB.
    ForkingPickler.register(torch.Tensor, _reduce_tensor)
    # Ctrl-C is for the training process, which tells this one to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    # In the order of memory, in which numpy copies a permuted image as one block.
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return _tensor, (tensor.permute(order).numpy(), np.argsort(order).tolist())


def _tensor(array: np.ndarray, order: list[int]) -> torch.Tensor:
    return torch.from_numpy(array).permute(order)


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, which tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
