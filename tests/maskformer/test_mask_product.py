"""The product's gradient, of which most rows are zero, is that of einsum and convolution."""

import pytest
import torch
from torch import nn

from maskformer.network.mask_product import Projected, mask_product

CHANNELS, ROWS = 8, 15


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, nn.Conv2d]:
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 3, 5, CHANNELS, generator=random).to(dtype)
    source = torch.randn(2, 4, 6, 7, generator=random).to(dtype)
    torch.manual_seed(1)
    projection = nn.Conv2d(4, CHANNELS, 3, padding=1).to(dtype)
    layout = torch.channels_last  # as convolutions leave it
    return (
        embeddings.requires_grad_(),
        source.to(memory_format=layout).requires_grad_(),
        projection,
    )


def plain_product(embeddings: torch.Tensor, projected: Projected) -> torch.Tensor:
    return torch.einsum("blqc,bchw->blqhw", embeddings, projected.features)


# Fewer than the features have channels, and more.
@pytest.mark.parametrize("learning", [[], [0], [2, 11], list(range(ROWS))], ids=len)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)]
)
def test_the_gradient_is_that_of_einsum_and_convolution(learning, dtype, tolerance):
    embeddings, source, projection = inputs(dtype)
    gradient = torch.zeros(2, ROWS, 6, 7, dtype=dtype)
    gradient[0, learning] = torch.randn(
        len(learning), 6, 7, generator=torch.Generator().manual_seed(1)
    ).to(dtype)
    gradient = gradient.view(2, 3, 5, 6, 7)  # nothing in the second image
    leaves = (embeddings, source, projection.weight, projection.bias)

    found = mask_product(embeddings, Projected.by(projection, source))
    expected = plain_product(embeddings, Projected.by(projection, source))

    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, gradient),
        torch.autograd.grad(expected, leaves, gradient),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        scale = 1 + theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def test_features_that_are_used_elsewhere_too_get_both_gradients():
    embeddings, source, projection = inputs(torch.float64)

    def gradients(product):
        projected = Projected.by(projection, source)
        total = product(embeddings, projected).square().sum() + projected.features.square().sum()
        return torch.autograd.grad(total, (embeddings, source, projection.weight, projection.bias))

    for ours, theirs in zip(gradients(mask_product), gradients(plain_product), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_of_unknown_origin_get_their_gradient():
    embeddings, source, projection = inputs(torch.float64)
    features = projection(source).detach().requires_grad_()
    mask_product(embeddings, Projected(features=features)).sum().backward()
    expected = embeddings.detach().sum((1, 2))[:, :, None, None].expand_as(features)
    torch.testing.assert_close(features.grad, expected)


def test_a_gradient_that_is_not_a_number_is_passed_on():
    embeddings, source, projection = inputs(torch.float32)
    logits = mask_product(embeddings, Projected.by(projection, source))
    logits.backward(torch.full((2, 3, 5, 6, 7), torch.nan))
    for leaf in (embeddings, source, projection.weight, projection.bias):
        assert bool(leaf.grad.isnan().all())


def test_in_half_the_bits_under_autocast_with_a_frozen_backbone_and_projection():
    embeddings, source, projection = inputs(torch.float32)
    projection.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        projected = Projected.by(projection, source.detach())
        logits = mask_product(embeddings, projected)
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert projection.weight.grad is None
    expected = projected.features.float().sum((2, 3))[:, None, None].expand_as(embeddings)
    torch.testing.assert_close(embeddings.grad, expected, rtol=2e-2, atol=2e-1)
