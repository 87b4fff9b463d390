"""Copies pixels to a GPU beside its computation.

`model_inputs.py` uses it. A copy from ordinary memory makes the caller wait, and the GPU with it; a
copy from pinned memory on a stream of its own does neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, groupby

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

_SLOTS = 3
"""Copies under way at once: one is filled, one travels, one is computed on."""


@dataclass(kw_only=True)
class _Slot:
    """Pinned memory that one copy at a time uses."""

    copied: torch.cuda.Event
    """Recorded behind the last copy from this memory."""
    memory: UInt8[Tensor, " num_bytes"] | None = None

    def filled(self, arrays: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[Tensor, " _"]:
        """Writes the arrays one behind the other into the memory, once its last copy is over."""
        if not self.copied.query():
            self.copied.synchronize()
        num_bytes = sum(array.nbytes for array in arrays)
        if self.memory is None or len(self.memory) < num_bytes:
            self.memory = _pinned(num_bytes)
        memory, start = self.memory.numpy(), 0
        for array in arrays:
            stop = start + array.nbytes
            np.copyto(memory[start:stop].reshape(array.shape), array)  # without Python's lock
            start = stop
        return self.memory[:num_bytes]


class PinnedUploads:
    """Uploads lists of arrays through a ring of pinned memory, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._slots = cycle([_Slot(copied=torch.cuda.Event()) for _ in range(_SLOTS)])

    def __call__(
        self, arrays: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> list[UInt8[Tensor, "_ _ _ 3"]]:
        """Returns tensors on the device, of neighbours of one shape together, in one copy.

        They may be used on the current stream at once: it waits for the copy, the caller does not.
        """
        slot = next(self._slots)
        filled = slot.filled(arrays)
        with torch.cuda.stream(self._stream):
            uploaded = filled.to(self._device, non_blocking=True)
            slot.copied.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(slot.copied)
        # The memory belongs to the other stream: it must not be given away before this one is done.
        uploaded.record_stream(current)
        return _stacks(uploaded, arrays)


def _stacks(
    flat: UInt8[Tensor, " num_bytes"], arrays: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> list[UInt8[Tensor, "_ _ _ 3"]]:
    """Views the bytes of all arrays as stacks of neighbours of one shape."""
    stacks, start = [], 0
    for shape, run in groupby(arrays, key=np.shape):
        stop = start + sum(array.nbytes for array in run)
        stacks.append(flat[start:stop].view(-1, *shape))
        start = stop
    return stacks


def _pinned(num_bytes: int) -> UInt8[Tensor, " num_bytes"]:
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
