"""Optimisation: which weights learn how fast, and when.

What the published recipes say of AdamW, as numbers that follow from names, modules and the step
alone: nothing here is state, so that a run goes on at any step. `loop.py` takes the steps.
"""

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

_BACKBONE = "pixel_level_module.encoder."
_UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed", "position_embeddings")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.modules.batchnorm._NormBase)
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings:
    """AdamW as published, over steps of one batch of the whole cluster each."""

    num_steps: int = 10_000
    """Steps in all."""
    batch_size: int = 16
    """Images of a step, on all workers together; more workers have fewer each."""
    micro_batches: int = 1
    """Pieces in which a worker does its images of a step, for less memory and the same result."""
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    """Not of norms, embeddings and tables of positions, which have none."""
    backbone_rate: float = 0.1
    """The backbone's learning rate as a share of the rest's."""
    schedule: Literal["polynomial", "steps"] = "polynomial"
    """polynomial: (1 - step / num_steps) ** power; steps: a tenth from each of `decay_steps` on."""
    power: float = 0.9
    """Of the polynomial."""
    decay_steps: tuple[int, ...] = ()
    """Where the rate falls to a tenth, with the schedule steps."""
    warmup_steps: int = 0
    """Steps over which the rate rises to its value in a line."""
    warmup_share: float = 1e-6
    """The share of the rate that the rise begins with."""
    clip_norm: float | None = 0.01
    """Longest gradient of the whole model; longer ones are shortened to it. None for no bound."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic; weights and losses stay float32. fp16 scales its losses; for GPUs."""
    average_decay: float | None = None
    """Keep a moving average of the weights with this share of the old, as 0.9999, and evaluate and
    deliver that; None for none."""
    non_finite: Literal["raise", "skip"] = "raise"
    """On a step whose gradient is not finite: stop the run, or leave the step out."""
    frozen_weights: tuple[str, ...] = ()
    """Shell patterns of weights that stay as they are, by the names in the model's file. The first
    stage of a Swin: model.pixel_level_module.encoder.model.encoder.layers.0.*"""
    batch_norm: Literal["as_built", "frozen", "synchronised"] = "as_built"
    """as_built: each worker's images, unless the model's own configuration froze it; frozen:
    nothing of it changes; synchronised: the images of all workers, on GPUs."""
    compile: bool = False
    """Compile the model (torch.compile): a slow start, and faster steps on GPUs."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "backbone_rate", "warmup_steps", "power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("warmup_share", "average_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if bool(self.decay_steps) != (self.schedule == "steps"):
            raise ValueError(
                "decay_steps belong to the schedule steps, and to no other: "
                f"got {list(self.decay_steps)} with {self.schedule}"
            )
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            raise ValueError(f"decay_steps must rise, got {list(self.decay_steps)}")


def rate_share(step: int, *, settings: OptimisationSettings) -> float:
    """The share of the learning rate at a step, which counts from 0."""
    if settings.schedule == "polynomial":
        share = (1 - step / settings.num_steps) ** settings.power
    else:
        share = 0.1 ** bisect.bisect_right(settings.decay_steps, step)
    if step < settings.warmup_steps:
        risen = step / settings.warmup_steps
        share *= settings.warmup_share * (1 - risen) + risen
    return share


def check_device(settings: OptimisationSettings, *, device: str) -> None:
    """Raises ValueError for what workers cannot do on a device of this type."""
    if settings.batch_norm == "synchronised" and device != "cuda":
        raise ValueError(
            f"batch_norm synchronised needs GPUs, the model is on {device}; leave it out, or take "
            "frozen"
        )


def build_optimiser(model: nn.Module, *, settings: OptimisationSettings) -> torch.optim.AdamW:
    """AdamW over the weights that learn; `set_learning_rate` before each step.

    Raises:
        ValueError: no weight is left to learn.
    """
    groups = parameter_groups(model, settings=settings)
    if not groups:
        raise ValueError(
            f"frozen_weights must leave weights to learn, {list(settings.frozen_weights)} take all"
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def set_learning_rate(
    optimiser: torch.optim.Optimizer, *, step: int, settings: OptimisationSettings
) -> float:
    """Gives each group its rate of the step; returns that of weights outside the backbone."""
    rate = settings.learning_rate * rate_share(step, settings=settings)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
    return rate


def parameter_groups(model: nn.Module, *, settings: OptimisationSettings) -> list[dict[str, Any]]:
    """The weights that learn, by what they learn with: `rate`, a share, and `weight_decay`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for module_name, module in model.named_modules():
        undecayed = isinstance(module, (*_NORMS, nn.Embedding))
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate = settings.backbone_rate if _BACKBONE in f"{module_name}." else 1.0
            is_free = undecayed or name in _UNDECAYED_NAMES
            groups[rate, 0.0 if is_free else settings.weight_decay].append(parameter)
    return [
        {"params": parameters, "rate": rate, "weight_decay": weight_decay}
        for (rate, weight_decay), parameters in groups.items()
    ]


def freeze(model: nn.Module, *, settings: OptimisationSettings) -> list[nn.Module]:
    """Takes the frozen weights out of training; gives the modules that must stay in evaluation
    mode, where their statistics and dropout do nothing.

    Raises:
        ValueError: a pattern names no weight, or there is nothing to freeze or synchronise.
    """
    _freeze_weights(model, patterns=settings.frozen_weights)
    resting = [module for module in model.modules() if _is_frozen(module)]
    if settings.batch_norm == "frozen":
        norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
        if not norms:
            raise ValueError("batch_norm frozen has no effect on a model without; leave it out")
        for norm in norms:
            norm.requires_grad_(False)
        resting += norms
    return resting


def _freeze_weights(model: nn.Module, *, patterns: Sequence[str]) -> None:
    weights = dict(model.named_parameters())
    for pattern in patterns:
        matching = [name for name in weights if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"frozen_weights must match weights of the model, {pattern!r} matches none; the "
                f"first of them is {next(iter(weights))}"
            )
        for name in matching:
            weights[name].requires_grad_(False)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(each.requires_grad for each in parameters)
