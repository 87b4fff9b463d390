"""Prepares the batches of the next step in a thread, while the device takes this one."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import torch

from pipeline.training.batches import Batch

_Made = tuple[list[Batch] | None, "torch.cuda.Event | None"]


def prefetched(
    steps: Iterator[list[Batch]], *, device: torch.device | str
) -> Iterator[list[Batch]]:
    """Yields the batches of each step, in order; makes those of the next one meanwhile.

    All that `steps` does runs in a thread. On a GPU its copies and operations run on a stream of
    their own, beside the model's.

    Raises:
        Exception: what `steps` raises, at its step.
    """
    device = torch.device(device)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def make() -> _Made:
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            made = next(steps, None)
            return made, None if stream is None else stream.record_event()

    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    is_left = False
    try:
        pending: Future[_Made] = pool.submit(make)
        while True:
            made, copied = pending.result()
            if made is None:
                return
            pending = pool.submit(make)
            yield made if copied is None else _handed_over(made, copied=copied)
    except GeneratorExit:
        is_left = True
        raise
    finally:
        # Who leaves early does not wait for images that nobody will look at.
        pool.shutdown(wait=not is_left, cancel_futures=True)


def _handed_over(batches: list[Batch], *, copied: "torch.cuda.Event") -> list[Batch]:
    """Makes the model's stream wait for the copies, and their memory wait for that stream."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(stream)
        return tensor

    return [batch.each(keep) for batch in batches]
