"""Keeps an exponential moving average of a model's weights."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelEMA:
    """The exponential moving average of a model's weights; buffers are copied."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        """Ready to be evaluated and saved."""
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Moves the average towards the weights after `step`, which counts from 0.

        The first steps weigh more than their share, so that the initial weights are soon left.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average(list(self.model.parameters()), list(model.parameters()), step)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
