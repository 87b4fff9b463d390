"""Gradient checkpointing: what is inside a block is computed again in the backward pass."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, tensor: Tensor) -> Tensor:
    """What the block gives; where there is a backward pass to come, none of its inside is kept."""
    if not torch.is_grad_enabled():
        return block(tensor)
    return checkpoint(block, tensor, use_reentrant=False)
