"""Keeps an exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn


class ModelEMA:
    """The exponential moving average of a model's weights; buffers are copied."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """Ready to be evaluated and saved."""
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int, was_taken: Tensor) -> None:
        """Moves the average towards the weights after `step`, which counts from 0.

        The first steps weigh more than their share, so that the initial weights are soon left. A
        step that was not taken changes nothing, for which the host need not know it.
        """
        share = was_taken * (1 - min(self._decay, (1 + step) / (10 + step)))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, share.to(mine.dtype))
        for old, new in zip(self.model.buffers(), model.buffers(), strict=True):
            old.copy_(torch.where(was_taken, new, old))
