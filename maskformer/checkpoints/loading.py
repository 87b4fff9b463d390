"""Loading: from a place to a model that has its weights.

What `from_pretrained` of the models does, whatever the dialect. The file is compared with a model
without memory first, so that one that does not fit costs nothing.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from maskformer.checkpoints.checkpoint import (
    LoadReport,
    Weights,
    as_tensor,
    fill,
    fit_weights,
    is_skeleton,
    read_checkpoint,
    stored_dtype,
)
from maskformer.checkpoints.folder import read_config
from maskformer.checkpoints.labels import LabelMatch, match_labels
from maskformer.configuration import MaskFormerConfig
from maskformer.hub import HubOptions, resolve_folder
from maskformer.network.initialisation import WithoutDraws

Model = TypeVar("Model", bound=nn.Module)

_HEAD = ("class_predictor.weight", "class_predictor.bias")

_log = logging.getLogger(__name__)


def load_pretrained(
    build: Callable[[MaskFormerConfig], Model],
    name_or_location: str,
    *,
    hub: HubOptions,
    config: MaskFormerConfig | None,
    labels: Sequence[str] | None,
    dtype: torch.dtype | str | None,
    allow_missing: Sequence[str],
    allow_unexpected: Sequence[str],
    allow_misshapen: bool,
    config_values: Mapping[str, Any],
) -> tuple[Model, LoadReport]:
    """See `PretrainedModel.from_pretrained`."""
    location = resolve_folder(name_or_location, hub)
    if config is not None and config_values:
        raise ValueError(
            f"config comes whole or as fields, got both: {', '.join(sorted(config_values))}"
        )
    if labels is not None and config_values.keys() & {"id2label", "label2id", "num_labels"}:
        raise ValueError("labels name the new labels and say how many, so num_labels, id2label "
                         "and label2id have no effect; leave them out")  # fmt: skip
    if config is None:
        config = read_config(location, **config_values)
    weights: Weights = read_checkpoint(location)
    wanted_dtype = _as_dtype(dtype, weights=weights)
    match, head = None, {}
    if labels is not None:
        match = match_labels(config.id2label or {}, labels)
        head = _head(weights, match=match, source=location)
        weights = {name: weight for name, weight in weights.items() if name not in head}
        config = MaskFormerConfig.from_dict(config.to_dict(), id2label=dict(enumerate(labels)))
    with torch.device("meta"), WithoutDraws():
        skeleton = build(config)
    fit = fit_weights(
        weights,
        model=skeleton,
        source=location,
        allow_missing=[*allow_missing, *head],
        allow_unexpected=allow_unexpected,
        allow_misshapen=allow_misshapen,
    )
    is_partial = fit.report.missing or fit.report.misshapen
    with contextlib.nullcontext() if is_partial else WithoutDraws():
        model, report = build(config), fit.report
    fill(model, fit.weights)
    if match is not None:
        report = _fill_head(model, head, match=match, report=report)
    return model.to(wanted_dtype), report


def _as_dtype(given: torch.dtype | str | None, *, weights: Weights) -> torch.dtype:
    if given is None:
        return torch.float32
    if given == "auto":
        return stored_dtype(weights)
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"dtype must be auto or a floating point type such as bfloat16, got {given!r}"
        )
    return dtype


def _head(weights: Weights, *, match: LabelMatch, source: str) -> dict[str, Any]:
    head = {name: weights[name] for name in _HEAD if name in weights}
    rows = {name: weight.shape[0] for name, weight in head.items()}
    if len(head) != len(_HEAD) or {*rows.values()} != {match.num_old + 1}:
        raise ValueError(
            f"labels are matched with the rows of {' and '.join(_HEAD)}, one for each of the "
            f"configuration's {match.num_old} labels and one more, {source} has {rows or 'none'}"
        )
    return head


def _fill_head(
    model: nn.Module, head: Weights, *, match: LabelMatch, report: LoadReport
) -> LoadReport:
    state = model.state_dict()
    joined = {
        name: match.onto(state[name], trained=as_tensor(weight))
        for name, weight in head.items()
        if name in state
    }
    if not joined:
        raise ValueError("labels have no effect on a model without a class head; leave them out")
    fill(model, joined)
    # Fresh rows give nonsense until they are trained, which nobody should find out by looking.
    _log.log(
        logging.WARNING if match.fresh and not is_skeleton(model) else logging.INFO,
        "class head: %d of %d labels kept by name (%s); afresh: %s",
        len(match.kept),
        len(match.kept) + len(match.fresh),
        ", ".join(match.kept) or "none",
        ", ".join(match.fresh) or "none",
    )
    missing = tuple(name for name in report.missing if name not in head)
    return replace(report, missing=missing, kept_labels=match.kept, fresh_labels=match.fresh)
