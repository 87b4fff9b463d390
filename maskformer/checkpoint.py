"""Checkpoints: the weights of a folder into a model, and back.

Takes a model and a folder that `weights.py` found. Names on disk are the model's own, which are
those that transformers publishes; names that transformers 5 has in memory are read too. Nothing is
dropped or left out in silence.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from maskformer.weights import SAFETENSORS, weight_files

# The base model alone stores its weights without this.
_BASE = "model."

# The decoder's names in transformers 5's memory, and what they are on disk.
_RENAMED = (
    (re.compile(r"(transformer_module\.decoder\.layers\.\d+\.\w+)\.o_proj\."), r"\1.out_proj."),
    (re.compile(r"(transformer_module\.decoder\.layers\.\d+)\.mlp\.(fc[12])\."), r"\1.\2."),
)

# In published files, and derived here: an index that follows from the window, a norm after Swin
# that no forward uses, class weights that follow from the configuration.
_DERIVED = (
    "*.relative_position_index",
    "*pixel_level_module.encoder.model.layernorm.*",
    "criterion.empty_weight",
)

# Counters that change no output, absent from old files.
_OPTIONAL = ("*.num_batches_tracked", "criterion.empty_weight")


def load_checkpoint(
    model: nn.Module,
    folder: str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Fills the model in place; see `PretrainedModel.from_pretrained` for what is allowed."""
    wanted = model.state_dict()
    stored = _fit_prefix(read_weights(folder), wanted)
    stored = {name: value for name, value in stored.items() if not _matches(name, _DERIVED)}
    misshapen = {
        name: f"{name} is {_shape(stored[name])}, the model's {_shape(wanted[name])}"
        for name in stored.keys() & wanted.keys()
        if stored[name].shape != wanted[name].shape
    }
    problems = {
        "missing": _without(wanted.keys() - stored.keys(), [*allow_missing, *_OPTIONAL]),
        "unexpected": _without(stored.keys() - wanted.keys(), allow_unexpected),
        "of another shape": [misshapen[name] for name in _without(misshapen, allow_missing)],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(
            f"the weights in {folder} must be those of its configuration. {listed}. "
            "Allow by name with allow_missing or allow_unexpected"
        )
    fitting = {k: v for k, v in stored.items() if k in wanted and k not in misshapen}
    model.load_state_dict({**wanted, **fitting})


def read_weights(folder: str) -> dict[str, Tensor]:
    """All tensors of a folder, by their names on disk."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= _read(path)
    return {_published(name): tensor for name, tensor in weights.items()}


def stored_dtype(folder: str) -> torch.dtype:
    """The type of the weights: that of the first which is of floating point."""
    floating = (w.dtype for w in read_weights(folder).values() if w.is_floating_point())
    return next(floating, torch.float32)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _published(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _fit_prefix(stored: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lets the base model read a whole one's weights without the heads, and the reverse."""
    whole_stored = any(name.startswith(_BASE) for name in stored)
    whole_wanted = any(name.startswith(_BASE) for name in wanted)
    if whole_stored and not whole_wanted:
        return {k.removeprefix(_BASE): v for k, v in stored.items() if k.startswith(_BASE)}
    if whole_wanted and not whole_stored:
        return {_BASE + name: tensor for name, tensor in stored.items()}
    return stored


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not _matches(name, patterns))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def save_checkpoint(model: nn.Module, folder: str | Path) -> None:
    """Writes model.safetensors whole or not at all, with all that transformers looks for."""
    from safetensors.torch import save_file

    weights = {**model.state_dict(), **_published_besides(model)}
    path = Path(folder) / SAFETENSORS
    unfinished = path.with_suffix(".unfinished")
    # Copies: a file holds each tensor by itself, in plain order.
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()},
        unfinished,
        metadata={"format": "pt"},
    )
    unfinished.replace(path)


def _published_besides(model: nn.Module) -> dict[str, Tensor]:
    besides = {}
    for name, module in model.named_modules():
        if hasattr(module, "published_besides"):
            for key, tensor in module.published_besides().items():
                besides[f"{name}.{key}"] = tensor
    return besides
