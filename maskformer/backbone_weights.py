"""Weights for a backbone alone: ImageNet's, of timm and others, or a trained MaskFormer's.

Takes a model with fresh weights and a place; fills the model's backbone. Swin's and ResNet's names
are those of timm, torchvision, Detectron2 or transformers, found out by themselves; any other
backbone is timm's, and so are its weights.
"""

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskformer.checkpoints.checkpoint import (
    LoadReport,
    Weight,
    Weights,
    as_tensor,
    fill,
    fit_weights,
    stored_by_name,
)
from maskformer.checkpoints.dialects import Rules, detectron2_backbone, our_names, translated
from maskformer.configuration import TimmBackboneConfig
from maskformer.hub import resolve_folder
from maskformer.model import PretrainedModel

_ENCODER = "pixel_level_module.encoder"

# Weights behind the backbone of an ImageNet model, and those that Swin derives from its window.
_PASSED_OVER = (
    "head.*",
    "fc.*",
    "stem.fc.*",
    "classifier.*",
    "norm.*",
    "model.layernorm.*",
    "*.attn_mask",
    "*.relative_position_index",
)

# One for each stage that comes out, which ImageNet's models do not have: ones and zeros, as when
# the published models were trained.
_FRESH = ("hidden_states_norms.*",)

_TABLE = ".relative_position_bias_table"

_TRANSFORMERS: Rules = (("swin.", "model."), ("resnet.", ""))


def load_backbone(
    model: PretrainedModel,
    location: str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fills the backbone of a MaskFormer in place; pixel decoder, queries and heads stay.

    `location` is a file of weights, a folder, or a name on the hub. Classifiers are passed over.
    Swin's tables of relative positions are resized where they are of another window, as when the
    published models were trained. Names in the errors and the report are those in the backbone.
    """
    [backbone] = [m for name, m in model.named_modules() if name.endswith(_ENCODER)]
    wanted = backbone.state_dict()
    location = resolve_folder(str(location))
    tensors = _of_backbone(stored_by_name(location))
    config = model.config.backbone_config
    if isinstance(config, TimmBackboneConfig):
        tensors = _in_features(tensors, wanted=wanted, timm_name=str(config.backbone))
    else:
        tensors = _ours(tensors)
    tensors = {
        name: _of_window(tensor, wanted.get(name)) if name.endswith(_TABLE) else tensor
        for name, tensor in tensors.items()
        if name in wanted or not any(fnmatchcase(name, pattern) for pattern in _PASSED_OVER)
    }
    fit = fit_weights(
        tensors,
        model=backbone,
        source=location,
        allow_missing=[*allow_missing, *_FRESH],
        allow_unexpected=allow_unexpected,
    )
    fill(backbone, fit.weights)
    return fit.report


def _of_backbone(tensors: Weights) -> dict[str, Weight]:
    """Cuts the backbone out of a whole MaskFormer; leaves other weights as they are."""
    ours = our_names(tensors)
    inside = re.compile(rf"(model\.)?{re.escape(_ENCODER)}\.")
    if any(inside.match(name) for name in ours):
        return {inside.sub("", name, count=1): t for name, t in ours.items() if inside.match(name)}
    return {name.removeprefix("backbone."): tensor for name, tensor in ours.items()}


def _ours(tensors: Weights) -> dict[str, Weight]:
    deep = any(name.startswith("conv1.6.") for name in tensors)
    tensors = translated(_downsampling_after(tensors), rules=_timm_resnet(deep=deep))
    return translated(tensors, rules=(*detectron2_backbone(tensors), *_TRANSFORMERS))


def _timm_resnet(*, deep: bool) -> Rules:
    """timm's and torchvision's names in Detectron2's; the deep stem is that of `resnet101s`."""
    stages: list[tuple[str, str]] = []
    for stage in (1, 2, 3, 4):
        there, here = f"layer{stage}.{{block}}", f"res{stage + 1}.{{block}}"
        for n in (1, 2, 3):
            stages.append((f"{there}.conv{n}.", f"{here}.conv{n}."))
            stages.append((f"{there}.bn{n}.", f"{here}.conv{n}.norm."))
        stages.append((f"{there}.downsample.0.", f"{here}.shortcut."))
        stages.append((f"{there}.downsample.1.", f"{here}.shortcut.norm."))
    if not deep:
        return (("conv1.", "stem.conv1."), ("bn1.", "stem.conv1.norm."), *stages)
    return (
        ("conv1.0.", "stem.conv1."),
        ("conv1.1.", "stem.conv1.norm."),
        ("conv1.3.", "stem.conv2."),
        ("conv1.4.", "stem.conv2.norm."),
        ("conv1.6.", "stem.conv3."),
        ("bn1.", "stem.conv3.norm."),
        *stages,
    )


def _downsampling_after(tensors: Weights) -> Weights:
    """timm's Swin merges patches before a stage, all others after the one before."""
    merging = re.compile(r"layers\.(\d+)\.downsample\.")
    stages = [int(found[1]) for name in tensors if (found := merging.match(name))]
    if not stages or 0 in stages:
        return tensors
    return {
        merging.sub(lambda found: f"layers.{int(found[1]) - 1}.downsample.", name): tensor
        for name, tensor in tensors.items()
    }


def _in_features(
    tensors: Weights, *, wanted: Mapping[str, Any], timm_name: str
) -> dict[str, Weight]:
    """The weights of a whole timm model by the names in its features, which leave out the end."""
    import timm

    with torch.device("meta"):
        whole = timm.create_model(timm_name, pretrained=False).state_dict()
    rest, ours = dict(tensors), {}
    for name in wanted:
        inner = name.removeprefix("_backbone.")
        # Features may lay stages side by side, or lie around the whole model.
        spread = re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", inner)
        for theirs in (name, inner, spread, inner.removeprefix("model.")):
            if theirs in rest:
                ours[name] = rest.pop(theirs)
                break
    return ours | {name: tensor for name, tensor in rest.items() if name not in whole}


def _of_window(weight: Weight, wanted: Tensor | None) -> Weight:
    """A table of relative positions, resized to the window that is wanted."""
    if wanted is None or weight.shape == wanted.shape:
        return weight
    (rows, heads), (rows_wanted, heads_wanted) = weight.shape, wanted.shape
    sides = math.isqrt(rows), math.isqrt(rows_wanted)
    is_table = sides[0] ** 2 == rows and sides[1] ** 2 == rows_wanted
    if not is_table or heads != heads_wanted:
        return weight
    return _resized(as_tensor(weight).float(), side=sides[0], wanted=sides[1])


def _resized(
    table: Float[Tensor, "places heads"], *, side: int, wanted: int
) -> Float[Tensor, "wanted_places heads"]:
    grid = table.T.reshape(1, -1, side, side)
    resized = functional.interpolate(grid, size=(wanted, wanted), mode="bicubic")
    return resized.flatten(2)[0].T.contiguous()
