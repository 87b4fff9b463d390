"""Loading: the batches of a worker, step by step, made by processes ahead of time.

Processes decode and augment, one sample after the other, and send bytes; the worker's own process
pads, copies to the device and normalises there. Which process makes a sample has no part in it.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from maskformer import IdMap, MaskRuns
from pipeline.training.batches import Batch, Sample, collate
from pipeline.training.sampler import SampleIndex, step_indices, worker_share
from pipeline.training.samples import TrainingData

# Samples that a process makes at a time: their files are read at once.
_TOGETHER = 4
# Such portions that are asked for ahead, for each process, and whole steps.
_PORTIONS_AHEAD, _STEPS_AHEAD = 2, 2


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
) -> Iterator[list[Batch]]:
    """The micro-batches of each step that this worker is to do, on its device.

    Args:
        steps: the optimiser steps, from 0; a run that goes on begins where the last one stopped.
        global_batch: images of a step, all workers together.
        num_processes: that decode and augment for this worker; 0 does it in this one, step by step.

    Raises:
        LabelError: of the image that is no good, at its step.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
        RuntimeError: a process died.
        ValueError: a micro-batch would be empty.
    """

    def share(step: int) -> list[list[SampleIndex]]:
        indices = step_indices(
            step, global_batch=global_batch, num_images=len(data), seed=data.seed
        )
        return worker_share(indices, rank=rank, world_size=world_size, micro_batches=micro_batches)

    # An error in the sizes shows here, before a process starts.
    num_samples = sum(len(micro_batch) for micro_batch in share(steps.start))
    shares = (share(step) for step in steps)
    if num_processes:
        made = _made_ahead(data, shares, num_samples=num_samples, num_processes=num_processes)
    else:
        made = _made_here(data, shares)
    return _batches(data, made, device=device)


def _batches(
    data: TrainingData, made: Iterator[list[list[Sample]]], *, device: torch.device | str
) -> Iterator[list[Batch]]:
    for micro_batches in made:
        yield [
            collate(
                samples,
                processor=data.processor,
                device=device,
                padded_size=data.augmentation.padded_size,
            )
            for samples in micro_batches
        ]


def _made_here(
    data: TrainingData, shares: Iterator[list[list[SampleIndex]]]
) -> Iterator[list[list[Sample]]]:
    for micro_batches in shares:
        yield [_samples(data, micro_batch) for micro_batch in micro_batches]


def _made_ahead(
    data: TrainingData,
    shares: Iterator[list[list[SampleIndex]]],
    *,
    num_samples: int,
    num_processes: int,
) -> Iterator[list[list[Sample]]]:
    """The same, with `num_samples` of a step, some steps ahead."""
    portions = _PORTIONS_AHEAD * num_processes
    steps_ahead = max(_STEPS_AHEAD, math.ceil(portions * _TOGETHER / num_samples))
    asked: deque[list[list[Future[list[_Sent]]]]] = deque()
    pool = ProcessPoolExecutor(
        num_processes,
        # Not forked: this process may hold threads and a GPU.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(data,),
    )
    try:
        for micro_batches in shares:
            asked.append(
                [
                    [
                        pool.submit(_make, micro_batch[first : first + _TOGETHER])
                        for first in range(0, len(micro_batch), _TOGETHER)
                    ]
                    for micro_batch in micro_batches
                ]
            )
            if len(asked) > steps_ahead:
                yield _received(asked.popleft())
        while asked:
            yield _received(asked.popleft())
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {num_processes} processes that load images died, most often for lack of "
            "memory; use fewer of them, or smaller crops"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _received(asked: "list[list[Future[list[_Sent]]]]") -> list[list[Sample]]:
    return [
        [sent.sample() for portion in micro_batch for sent in portion.result()]
        for micro_batch in asked
    ]


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A sample on its way, as arrays. They go through a pipe; tensors would take shared memory and
    file descriptors, of which a container may have few."""

    image_id: str
    pixels: UInt8[np.ndarray, "height width 3"]
    targets: type[IdMap | MaskRuns]
    fields: dict[str, Any]
    """Of the targets."""
    class_labels: Int64[np.ndarray, " masks"]
    valid: Bool[np.ndarray, "height width"] | None

    @classmethod
    def of(cls, sample: Sample) -> "_Sent":
        return cls(
            image_id=sample.image_id,
            pixels=sample.pixels.permute(1, 2, 0).numpy(),
            targets=type(sample.targets),
            fields={
                name: value.numpy() if isinstance(value, torch.Tensor) else value
                for name, value in vars(sample.targets).items()
            },
            class_labels=sample.class_labels.numpy(),
            valid=None if sample.valid is None else sample.valid.numpy(),
        )

    def sample(self) -> Sample:
        return Sample(
            image_id=self.image_id,
            pixels=torch.from_numpy(self.pixels).permute(2, 0, 1),
            targets=self.targets(
                **{
                    name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                    for name, value in self.fields.items()
                }
            ),
            class_labels=torch.from_numpy(self.class_labels),
            valid=None if self.valid is None else torch.from_numpy(self.valid),
        )


_data: TrainingData | None = None
"""In a process that makes samples: what of."""


def _start_process(data: TrainingData) -> None:
    global _data
    _data = data
    torch.set_num_threads(1)
    # Ctrl-C is for the one who asked; this process is told by it to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and its pool would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _make(indices: Sequence[SampleIndex]) -> list[_Sent]:
    assert _data is not None
    return [_Sent.of(sample) for sample in _samples(_data, indices)]


def _samples(data: TrainingData, indices: Sequence[SampleIndex]) -> list[Sample]:
    """Files are read at once, since storage may be far; pixels are worked on in turn."""
    with ThreadPoolExecutor(min(len(indices), _TOGETHER)) as pool:
        reads = [
            pool.submit(data.dataset.__getitem__, sample_index.index) for sample_index in indices
        ]
        return [
            data.augmented(read.result(), sample_index=sample_index)
            for sample_index, read in zip(indices, reads, strict=True)
        ]
