"""The product of mask embeddings and pixel features: the mask logits of all queries of all layers.

`model.py` asks for it. In training most queries are matched with nothing, so that most rows of the
gradient are zero: its backward pass takes those that are not.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def mask_product(
    embeddings: Float[Tensor, "batch layers queries channels"],
    features: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch layers queries height width"]:
    """The logits. Their gradient is that of `torch.einsum`."""
    # Another device would have to be waited for.
    if not embeddings.requires_grad or embeddings.device.type != "cpu":
        return _product(embeddings, features)
    if torch.compiler.is_compiling():
        return _product(embeddings, features)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        embeddings, features = embeddings.to(dtype), features.to(dtype)
    return _Product.apply(embeddings, features)


def _product(embeddings: Tensor, features: Tensor) -> Tensor:
    return torch.einsum("blqc,bchw->blqhw", embeddings, features)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, features)
        return _product(embeddings, features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, features = ctx.saved_tensors
        by_embeddings = torch.zeros_like(embeddings, memory_format=torch.contiguous_format)
        by_features = []
        for image, rows in enumerate(gradient.flatten(1, 2).flatten(2)):
            low, high = rows.aminmax(dim=1)
            learning = ((low != 0) | (high != 0)).nonzero().squeeze(1)  # NaN is not 0
            some = rows.index_select(0, learning)
            pixels, of_rows = features[image].flatten(1), embeddings[image].flatten(0, 1)
            by_embeddings[image].flatten(0, 1).index_copy_(0, learning, some @ pixels.T)
            by_features.append(of_rows.index_select(0, learning).T @ some)
        return by_embeddings, torch.stack(by_features).view(features.shape)
