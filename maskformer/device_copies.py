"""Copies small tensors of the CPU to a device that computes something else meanwhile."""

import torch
from torch import Tensor


def copied_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Copies a tensor of the CPU to the device. The host does not wait for a GPU.

    The copy is in order on the current stream: what is kept for later is for this stream alone.
    """
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
