"""Pieces: how much of a batch the loss and the matcher work on at once, by device.

A CPU works in compiled loops or in its cache, on little at a time. On a GPU each operation is a
launch whatever its size, so that pieces are as large as memory beside a model in training allows.
"""

import torch
from torch import Tensor

ON_A_GPU = 2**27
"""Values of float32 in one piece, 512 MB, where memory is large."""

# The loss holds up to nine tensors of a piece's size, which may take a sixteenth of the memory.
_BYTES_A_VALUE, _SHARE = 9 * 4, 16


def runs_in_loops(logits: Tensor) -> bool:
    """Returns whether compiled loops serve these logits: float32 on a CPU."""
    return logits.device.type == "cpu" and logits.dtype == torch.float32


def values_at_once(device: torch.device, *, on_cpu: int) -> int:
    """Returns the values of a piece; at least one mask or layer is in it, however large."""
    if device.type == "cpu":
        return on_cpu
    if device.type != "cuda":
        return ON_A_GPU
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(ON_A_GPU, memory // (_BYTES_A_VALUE * _SHARE))
