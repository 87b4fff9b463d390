"""Gradient checkpointing: what is inside a block is computed again in the backward pass."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, tensor: Tensor) -> Tensor:
    """Runs the block; keeps none of its inside for the backward pass, which computes it again."""
    if not torch.is_grad_enabled():
        return block(tensor)
    return checkpoint(block, tensor, use_reentrant=False)
