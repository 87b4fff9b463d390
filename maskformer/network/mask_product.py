"""The product of mask embeddings and pixel features: the mask logits of all queries of all layers.

`model.py` asks for it. In training most queries are matched with nothing, so that most rows of the
gradient are zero: its backward pass takes those that are not. They are fewer than the features have
channels. So the gradient does not go through the features to what these were projected of: the
embeddings go into the projection's weights, as in `query_masks`, and it goes there at once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maskformer.cpu import winograd


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Features of pixels and, where it is known, what they are a projection of."""

    features: Float[Tensor, "batch channels height width"]
    projection: nn.Conv2d | None = None
    """Of stride 1 that keeps the size of its map."""
    source: Float[Tensor, "batch source_channels height width"] | None = None

    @classmethod
    def by(cls, projection: nn.Conv2d, source: Tensor) -> "Projected":
        return cls(features=projection(source), projection=projection, source=source)


def mask_product(
    embeddings: Float[Tensor, "batch layers queries channels"], projected: Projected
) -> Float[Tensor, "batch layers queries height width"]:
    """The logits. Their gradient is that of `torch.einsum`."""
    features, source, projection = projected.features, projected.source, projected.projection
    # To find the rows, another device would have to be waited for.
    is_folded = embeddings.requires_grad and embeddings.device.type == "cpu"
    if not is_folded or source is None or projection is None or torch.compiler.is_compiling():
        return _product(embeddings, features)
    inputs = [embeddings, source, projection.weight, projection.get_parameter("bias")]
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        inputs = [each.to(dtype) for each in inputs]
    return _Product.apply(*inputs, features.detach())


def _product(embeddings: Tensor, features: Tensor) -> Tensor:
    return torch.einsum("blqc,bchw->blqhw", embeddings, features)


class _Product(torch.autograd.Function):
    """`features` are given for their values alone."""

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, source: Tensor, weight: Tensor, bias: Tensor, features: Tensor
    ) -> Tensor:
        ctx.save_for_backward(embeddings, source, weight, features)
        return _product(embeddings, features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, source, weight, features = ctx.saved_tensors
        by_embeddings = torch.zeros_like(embeddings, memory_format=torch.contiguous_format)
        by_source = torch.zeros_like(source) if ctx.needs_input_grad[1] else None
        exact = torch.promote_types(weight.dtype, torch.float32)  # what is a sum over images
        by_weight = torch.zeros_like(weight, dtype=exact)
        by_bias = by_weight.new_zeros(len(weight))
        for image, rows in enumerate(gradient.flatten(1, 2).flatten(2)):
            low, high = rows.aminmax(dim=1)
            learning = ((low != 0) | (high != 0)).nonzero().squeeze(1)  # NaN is not 0
            if not len(learning):
                continue
            some = rows.index_select(0, learning)
            pixels = features[image].flatten(1)
            by_embeddings[image].flatten(0, 1).index_copy_(0, learning, some @ pixels.T)
            outward = embeddings[image].flatten(0, 1).index_select(0, learning).T
            if len(learning) >= len(weight):
                some = outward @ some
                outward = torch.eye(len(weight), dtype=some.dtype)
            kernels = torch.einsum("cn,cfyx->nfyx", outward, weight)
            by_pixels, by_kernels = _through(
                some.view(1, -1, *source.shape[2:]),
                source[image : image + 1],
                kernels,
                to_source=by_source is not None,
            )
            if by_source is not None and by_pixels is not None:
                by_source[image] = by_pixels[0]
            by_weight += torch.einsum("cn,nfyx->cfyx", outward, by_kernels)
            by_bias += outward.to(exact) @ some.sum(1, dtype=exact)
        return by_embeddings, by_source, by_weight.to(weight.dtype), by_bias.to(weight.dtype), None


def _through(
    gradient: Tensor, source: Tensor, kernels: Tensor, *, to_source: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients by the source and by the kernels of a convolution that keeps the map's size."""
    if winograd.suits(source, kernels):
        return winograd.gradients(gradient, source, kernels, to_maps=to_source)
    by_source, by_kernels, _ = torch.ops.aten.convolution_backward(
        gradient,
        source,
        kernels,
        bias_sizes=None,
        stride=[1, 1],
        padding=[size // 2 for size in kernels.shape[2:]],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[to_source, True, False],
    )
    return by_source, by_kernels
