"""Builds the optimiser, and sets the learning rate of each weight at each step.

AdamW of the published recipes. All rates follow from the settings and the step alone, without
state, so that a run can resume at any step. `loop.py` takes the steps.
"""

import bisect
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from maskformer import MaskFormerForInstanceSegmentation
from pipeline.training.settings import OptimisationSettings

_BACKBONE = "pixel_level_module.encoder."
_UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed", "position_embeddings")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_NORMS = (*_BATCH_NORMS, *_INSTANCE_NORMS, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_MOST_SIZES = 24
_TRIED_PIXELS = 64


def rate_share(step: int, *, settings: OptimisationSettings) -> float:
    """Returns the share of the learning rate at a step, which counts from 0."""
    if settings.schedule == "polynomial":
        share = (1 - step / settings.num_steps) ** settings.power
    else:
        share = 0.1 ** bisect.bisect_right(settings.decay_steps, step)
    if step < settings.warmup_steps:
        risen = step / settings.warmup_steps
        share *= settings.warmup_share * (1 - risen) + risen
    return share


def check_device(settings: OptimisationSettings, *, device: str) -> None:
    """Raises ValueError for settings that workers on such a device cannot follow."""
    if settings.batch_norm == "synchronised" and device != "cuda":
        raise ValueError(
            f"batch_norm synchronised needs GPUs, the model is on {device}; leave it out, or take "
            "frozen"
        )
    if settings.tf32 and device != "cuda":
        raise ValueError(f"tf32 has no effect on a {device}, it is GPUs' arithmetic; leave it out")


def compile_blocks(model: MaskFormerForInstanceSegmentation) -> None:
    """Compiles the stages and layers of a model at their first run, each for itself.

    Each for the sizes that come first, up to a number; batches of rarer sizes run uncompiled.
    """
    for block in model.blocks():
        block.compile(dynamic=False, recompile_limit=_MOST_SIZES, isolate_recompiles=True)


def build_optimiser(model: nn.Module, *, settings: OptimisationSettings) -> torch.optim.AdamW:
    """Builds AdamW over the weights that learn; call `set_learning_rate` before each step.

    In its fused form, one pass over memory, which leaves out a step where `found_inf` is 1.

    Raises:
        ValueError: no weight is left to learn.
    """
    groups = parameter_groups(model, settings=settings)
    if not groups:
        raise ValueError(
            f"frozen_weights must leave weights to learn, {list(settings.frozen_weights)} take all"
        )
    is_meta = groups[0]["params"][0].is_meta  # where a model is checked, and nothing computed
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=not is_meta)


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a saved state; how steps are computed stays as built, whatever saved the state."""
    ways = ("fused", "foreach")
    groups = [
        {**saved, **{way: built[way] for way in ways}}
        for saved, built in zip(state["param_groups"], optimiser.param_groups, strict=True)
    ]
    optimiser.load_state_dict({**state, "param_groups": groups})


def set_learning_rate(
    optimiser: torch.optim.Optimizer, *, step: int, settings: OptimisationSettings
) -> float:
    """Sets each group's rate of the step; returns the rate of weights outside the backbone."""
    rate = settings.learning_rate * rate_share(step, settings=settings)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
    return rate


def parameter_groups(model: nn.Module, *, settings: OptimisationSettings) -> list[dict[str, Any]]:
    """Groups the weights that learn by `rate`, a share, and `weight_decay`."""
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


def freeze_unused(model: MaskFormerForInstanceSegmentation) -> None:
    """Freezes the backbone's weights that no mask depends on.

    Some of timm's backbones keep stages beyond the last one whose map is used, and
    DistributedDataParallel would wait for their gradients. Those that take images of their own size
    alone, vision transformers, are left as they are.
    """
    is_training = model.training
    pixels = torch.zeros(1, 3, _TRIED_PIXELS, _TRIED_PIXELS, device=model.device)
    try:
        used = _weights_of(model.eval()(pixels).masks_queries_logits)
    except (AssertionError, RuntimeError, ValueError):
        return
    finally:
        model.train(is_training)
    for name, parameter in model.named_parameters():
        if _BACKBONE in name and parameter not in used:
            parameter.requires_grad_(False)


def _weights_of(result: torch.Tensor) -> set[torch.Tensor]:
    """Returns the leaves of a result's graph, which are weights."""
    weights, seen, nodes = set(), set(), [result.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        if (weight := getattr(node, "variable", None)) is not None:
            weights.add(weight)
    return weights


def freeze(model: nn.Module, *, settings: OptimisationSettings) -> list[nn.Module]:
    """Freezes weights; returns the modules that must stay in evaluation mode, without dropout and
    new statistics.

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
