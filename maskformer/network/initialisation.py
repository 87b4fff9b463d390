"""Builds models without drawing random weights that are read from a file anyway."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(
    (
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_,
        Tensor.normal_, Tensor.uniform_,
    )
)  # fmt: skip
"""Torch's functions for random weights that a context can replace, and what all others call."""


class WithoutDraws(TorchFunctionMode):
    """A context in which a model is built with zeros in place of random weights.

    Constants, such as those of norms, are set. On the meta device torch would load its compiler
    for the first draw (1.8 s); in memory the draws of a Swin-L take longer than reading its file.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _DRAWS:
            # Zeros, for torch draws a truncated normal until all its values are in the range.
            return (args[0] if args else given["tensor"]).data.zero_()
        return func(*args, **given)
