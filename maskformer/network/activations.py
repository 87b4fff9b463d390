"""Activations by the names that configurations use."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "swish": functional.silu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"an activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r}; "
            "see hidden_act and activation_function in the model's config.json"
        )
    return _ACTIVATIONS[name]
