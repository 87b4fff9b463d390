"""Loading: the batches of a worker, step by step, made by processes ahead of time.

Processes decode and augment, one sample after the other, and send bytes; the worker's own process
pads, copies to the device and normalises there. Which process makes a sample has no part in it.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, UInt8
from torch.utils.data import DataLoader, Dataset

from maskformer import IdMap
from pipeline.labelled.target import LabelError
from pipeline.storage import SourceChanged, StorageFault
from pipeline.training.batches import Batch, Sample, collate
from pipeline.training.order import Pick, step_indices, worker_share
from pipeline.training.samples import TrainingData

# Samples that a process makes at a time: their files are read at once.
_TOGETHER = 4
# Steps that are made ahead.
_STEPS_AHEAD = 2


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
        LabelError: of the image that is no good.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
        ValueError: a micro-batch would be empty.
    """
    picks = _Picks(
        steps=steps,
        global_batch=global_batch,
        num_images=len(data),
        seed=data.seed,
        rank=rank,
        world_size=world_size,
        micro_batches=micro_batches,
    )
    picks.of_step(0)  # an error in the sizes shows before a process starts
    return _batches(data, picks=picks, num_processes=num_processes, device=device)


def _batches(
    data: TrainingData, *, picks: "_Picks", num_processes: int, device: torch.device | str
) -> Iterator[list[Batch]]:
    samples = _samples(data, picks=picks, num_processes=num_processes)
    for step in picks.steps:
        yield [
            collate(
                [next(samples) for _ in micro_batch],
                processor=data.processor,
                device=device,
                padded_size=data.augmentation.padded_size,
            )
            for micro_batch in picks.of_step(step)
        ]


@dataclass(frozen=True, kw_only=True)
class _Picks:
    """What one worker is to learn from, in order."""

    steps: range
    global_batch: int
    num_images: int
    seed: int
    rank: int
    world_size: int
    micro_batches: int

    def of_step(self, step: int) -> list[list[Pick]]:
        picks = step_indices(
            step, global_batch=self.global_batch, num_images=self.num_images, seed=self.seed
        )
        return worker_share(
            picks, rank=self.rank, world_size=self.world_size, micro_batches=self.micro_batches
        )

    def __iter__(self) -> Iterator[list[Pick]]:
        """Some picks at a time, without regard to where a step ends."""
        waiting: list[Pick] = []
        for step in self.steps:
            waiting += [pick for micro_batch in self.of_step(step) for pick in micro_batch]
            while len(waiting) >= _TOGETHER:
                yield waiting[:_TOGETHER]
                waiting = waiting[_TOGETHER:]
        if waiting:
            yield waiting


def _samples(data: TrainingData, *, picks: _Picks, num_processes: int) -> Iterator[Sample]:
    ahead: dict[str, Any] = {}
    if num_processes:
        share = _STEPS_AHEAD * math.ceil(picks.global_batch / picks.world_size)
        ahead = {
            # Not forked: this process may hold threads and a GPU.
            "multiprocessing_context": "spawn",
            "prefetch_factor": max(2, math.ceil(share / (_TOGETHER * num_processes))),
        }
    loader = DataLoader(
        _Maker(data),
        batch_sampler=picks,
        num_workers=num_processes,
        collate_fn=_unchanged,
        # Its own: it draws a seed, and the process's chance is the model's.
        generator=torch.Generator(),
        **ahead,
    )
    for made in loader:
        for sent in made:
            if isinstance(sent, Exception):
                raise sent
            yield sent.sample()


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A sample on its way, as arrays. They go through a pipe; tensors would take shared memory and
    file descriptors, of which a container may have few."""

    image_id: str
    pixels: UInt8[np.ndarray, "height width 3"]
    map: Integer[np.ndarray, "height width"]
    ids: Integer[np.ndarray, " masks"]
    class_labels: Int64[np.ndarray, " masks"]
    valid: Bool[np.ndarray, "height width"] | None

    @classmethod
    def of(cls, sample: Sample) -> "_Sent":
        return cls(
            image_id=sample.image_id,
            pixels=sample.pixels.permute(1, 2, 0).numpy(),
            map=sample.targets.map.numpy(),
            ids=sample.targets.ids.numpy(),
            class_labels=sample.class_labels.numpy(),
            valid=None if sample.valid is None else sample.valid.numpy(),
        )

    def sample(self) -> Sample:
        return Sample(
            image_id=self.image_id,
            pixels=torch.from_numpy(self.pixels).permute(2, 0, 1),
            targets=IdMap(map=torch.from_numpy(self.map), ids=torch.from_numpy(self.ids)),
            class_labels=torch.from_numpy(self.class_labels),
            valid=None if self.valid is None else torch.from_numpy(self.valid),
        )


_DataErrors = LabelError | StorageFault | SourceChanged


class _Maker(Dataset):
    """Makes samples where the loader asks for them, in one of its processes or in this one."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def __getitems__(self, picks: Sequence[Pick]) -> list[_Sent | _DataErrors]:
        """Files are read at once, since storage may be far; pixels are worked on in turn.

        Errors of the data come as values: the loader would hide them in the text of a traceback.
        """
        made: list[_Sent | _DataErrors] = []
        with ThreadPoolExecutor(len(picks)) as pool:
            reads = [pool.submit(self.data.dataset.__getitem__, pick.index) for pick in picks]
            for pick, read in zip(picks, reads, strict=True):
                try:
                    made.append(_Sent.of(self.data.augmented(read.result(), pick=pick)))
                except (LabelError, StorageFault, SourceChanged) as error:
                    made.append(error)
        return made


def _unchanged(made: list[_Sent | _DataErrors]) -> list[_Sent | _DataErrors]:
    return made
