"""Holds small constants on the device that uses them, so that they travel there once."""

from functools import lru_cache

import torch
from jaxtyping import Float32
from torch import Tensor


@lru_cache(maxsize=64)
def float_constant(values: tuple[float, ...], device: torch.device) -> Float32[Tensor, " values"]:
    """Returns the values as a tensor on the device, the same one for each call."""
    # Not an inference tensor, even when made in inference: training may meet it later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
