"""Checkpoints: weights of any dialect into a model, and a model's out in transformers' format.

Takes a model and a place that `folder.py` found, or tensors by name. Everything is compared by
name and shape before a number is read, so that a model on the meta device will do for that. Nothing
is dropped or left out in silence: what was allowed is in the report.
"""

import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from maskformer.checkpoints.dialects import our_names
from maskformer.checkpoints.files import stored_tensors
from maskformer.checkpoints.folder import weight_files
from maskformer.checkpoints.stored import StoredTensor

Weight = StoredTensor | Tensor
Weights = Mapping[str, Weight]

# The base model alone stores its weights without this.
_BASE = "model."

# In published files, and derived here: an index that follows from the window, a norm after Swin
# that no forward uses, class weights and colours that follow from the configuration.
_DERIVED = (
    "*.relative_position_index",
    "*pixel_level_module.encoder.model.layernorm.*",
    "criterion.empty_weight",
    "pixel_mean",
    "pixel_std",
)

# Counters that change no output, absent from old files.
_OPTIONAL = ("*.num_batches_tracked", "criterion.empty_weight")

_MOST_NAMES = 6

_WEIGHTS_FILE = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin(\.index\.json)?"
)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Lists by name what a model did not take from its file, because that was allowed."""

    missing: tuple[str, ...] = ()
    """Fresh, for the file has none."""
    unexpected: tuple[str, ...] = ()
    """Passed over, for the model has none."""
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """Fresh, for the file's is of another shape: the name, the file's shape and the model's."""
    kept_labels: tuple[str, ...] = ()
    """Of a new set of labels, those whose rows of the class head came from the file."""
    fresh_labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The weights that go into a model, and a report of those that do not."""

    weights: Weights
    report: LoadReport


def load_weights(
    model: nn.Module,
    weights: Weights,
    *,
    source: str = "the state dict",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fills the model in place with tensors by name in any dialect: another's state dict, say."""
    fit = fit_weights(
        weights,
        model=model,
        source=source,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )
    fill(model, fit.weights)
    return fit.report


def read_checkpoint(location: str) -> dict[str, StoredTensor]:
    """All tensors of a folder or a file, by our names; their numbers are not read yet."""
    return our_names(stored_by_name(location))


def stored_by_name(location: str) -> dict[str, StoredTensor]:
    """All tensors of a folder or a file, by the names in it."""
    weights: dict[str, StoredTensor] = {}
    for path in weight_files(location):
        weights |= stored_tensors(path)
    return weights


def fit_weights(
    weights: Weights,
    *,
    model: nn.Module,
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    allow_misshapen: bool = False,
) -> Fit:
    """Compares names and shapes with those of the model, which may be on the meta device.

    Raises:
        ValueError: they differ, and not only where that is allowed.
    """
    wanted = model.state_dict()
    stored = _fit_prefix(our_names(weights), wanted)
    stored = {name: value for name, value in stored.items() if not _matches(name, _DERIVED)}
    misshapen = sorted(
        name for name in stored.keys() & wanted.keys() if stored[name].shape != wanted[name].shape
    )
    missing = sorted(
        name for name in wanted.keys() - stored.keys() if not _matches(name, _OPTIONAL)
    )
    unexpected = sorted(stored.keys() - wanted.keys())
    problems = {
        "missing": _without(missing, allow_missing),
        "unexpected": _without(unexpected, allow_unexpected),
        "of another shape": [
            f"{name} is {_shape(stored[name])}, the model's {_shape(wanted[name])}"
            for name in _without(misshapen, ["*"] if allow_misshapen else allow_missing)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise ValueError(
            f"the weights in {source} must be those of its configuration. {listed}. "
            "Allow by name with allow_missing or allow_unexpected"
        )
    return Fit(
        weights={k: v for k, v in stored.items() if k in wanted and k not in misshapen},
        report=LoadReport(
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            misshapen=tuple(
                (name, tuple(stored[name].shape), tuple(wanted[name].shape)) for name in misshapen
            ),
        ),
    )


def fill(model: nn.Module, weights: Weights) -> None:
    """Copies weights into the model's of the same names and shapes; all others stay.

    A model on the meta device, which shows that all fits, has no memory to copy them to.
    """
    if is_skeleton(model):
        return
    read = {name: as_tensor(weight) for name, weight in weights.items()}
    model.load_state_dict({**model.state_dict(), **read})


def is_skeleton(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def as_tensor(weight: Weight) -> Tensor:
    """The numbers, on the CPU, in the memory of the mapped file where they lie in one.

    That memory is private: writing to it changes no file.
    """
    if isinstance(weight, Tensor):
        return weight
    dtype = getattr(torch, weight.dtype)
    if not math.prod(weight.shape):
        return torch.empty(weight.shape, dtype=dtype)
    # Torch wants memory that may be written to.
    data = bytearray(weight.data) if weight.data.readonly else weight.data
    whole = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
    return whole.as_strided(weight.shape, weight.strides, weight.offset)


def stored_dtype(weights: Weights) -> torch.dtype:
    """The type of the weights: that of the first which is of floating point."""
    types = (getattr(torch, str(w.dtype).removeprefix("torch.")) for w in weights.values())
    return next((dtype for dtype in types if dtype.is_floating_point), torch.float32)


def _fit_prefix(stored: dict[str, Weight], wanted: Mapping[str, Tensor]) -> dict[str, Weight]:
    """Lets the base model read a whole one's weights without the heads, and the reverse."""
    whole_stored = any(name.startswith(_BASE) for name in stored)
    whole_wanted = any(name.startswith(_BASE) for name in wanted)
    if whole_stored and not whole_wanted:
        return {k.removeprefix(_BASE): v for k, v in stored.items() if k.startswith(_BASE)}
    if whole_wanted and not whole_stored and any(_BASE + name in wanted for name in stored):
        return {_BASE + name: tensor for name, tensor in stored.items()}
    return stored


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not _matches(name, patterns)]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    shown = (name if name.isprintable() else repr(name) for name in names[:_MOST_NAMES])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Weight) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def save_checkpoint(
    model: nn.Module,
    folder: str | Path,
    *,
    state_dict: Mapping[str, Tensor] | None,
    max_shard_size: int | str,
    as_safetensors: bool,
) -> None:
    """Writes the weights with all that transformers looks for, each file whole or not at all.

    Weights of an earlier save, which would be read in place of these, go.
    """
    from huggingface_hub import save_torch_state_dict

    weights = {**(model.state_dict() if state_dict is None else state_dict)}
    weights |= _published_besides(model)
    # Copies: a file holds each tensor by itself, in plain order.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        save_torch_state_dict(
            copies,
            unfinished,
            max_shard_size=max_shard_size,
            metadata={"format": "pt"},
            safe_serialization=as_safetensors,
        )
        # Shards come before the index that names them.
        written = sorted(Path(unfinished).iterdir(), key=lambda path: path.suffix == ".json")
        for path in written:
            path.replace(Path(folder) / path.name)
    names = {path.name for path in written}
    for path in Path(folder).iterdir():
        if _WEIGHTS_FILE.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _published_besides(model: nn.Module) -> dict[str, Tensor]:
    besides = {}
    for name, module in model.named_modules():
        if hasattr(module, "published_besides"):
            for key, tensor in module.published_besides().items():
                besides[f"{name}.{key}"] = tensor
    return besides
