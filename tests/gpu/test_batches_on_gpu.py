"""Batches that a thread copies to a GPU on a stream of its own."""

from collections.abc import Iterator

import torch
from tiny_training import drawn_batch

from pipeline.training.batches import Batch
from pipeline.training.prefetch import prefetched

GPU = torch.device("cuda")
STEPS = 20


def pinned(batch: Batch) -> Batch:
    return batch.each(lambda tensor: tensor.pin_memory())


def steps() -> Iterator[list[Batch]]:
    for step in range(STEPS):
        batch = pinned(drawn_batch([step], num_masks=[3], seed=step))
        yield [batch.each(lambda tensor: tensor.to(GPU, non_blocking=True))]


def test_batches_arrive_whole_while_the_models_stream_is_busy():
    busy = torch.randn(2048, 2048, device=GPU)
    sums = []
    for [batch] in prefetched(steps(), device=GPU):
        for _ in range(20):
            busy = (busy @ busy).div_(busy.norm())
        sums.append(batch.pixel_values.sum())
        del batch  # its memory may be given to the next copy only when the sum is done
    for step, found in enumerate(sums):
        expected = drawn_batch([step], num_masks=[3], seed=step).pixel_values.sum()
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-3)
