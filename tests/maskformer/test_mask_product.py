"""The product's gradient, of which most rows are zero, is that of einsum."""

import pytest
import torch

from maskformer.mask_product import mask_product


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 3, 5, 8, generator=random).to(dtype)
    features = torch.randn(2, 8, 6, 7, generator=random).to(dtype)
    layout = torch.channels_last  # as convolutions leave it
    return embeddings.requires_grad_(), features.to(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("learning", [[], [0], [2, 11], list(range(15))], ids=len)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_the_gradient_is_that_of_einsum(learning, dtype, tolerance):
    embeddings, features = inputs(dtype)
    gradient = torch.zeros(2, 15, 6, 7, dtype=dtype)
    gradient[0, learning] = torch.randn(
        len(learning), 6, 7, generator=torch.Generator().manual_seed(1)
    ).to(dtype)
    gradient = gradient.view(2, 3, 5, 6, 7)  # nothing in the second image

    found = mask_product(embeddings, features)
    expected = torch.einsum("blqc,bchw->blqhw", embeddings, features)

    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (embeddings, features), gradient),
        torch.autograd.grad(expected, (embeddings, features), gradient),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_gradient_that_is_not_a_number_is_passed_on():
    embeddings, features = inputs(torch.float32)
    mask_product(embeddings, features).backward(torch.full((2, 3, 5, 6, 7), torch.nan))
    assert bool(embeddings.grad.isnan().all() and features.grad.isnan().all())


def test_in_half_the_bits_under_autocast_and_frozen_features():
    embeddings, features = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = mask_product(embeddings, features.detach())
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    expected = features.detach().sum((2, 3))[:, None, None].expand_as(embeddings)
    torch.testing.assert_close(embeddings.grad, expected, rtol=2e-2, atol=2e-1)
