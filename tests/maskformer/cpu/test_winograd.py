"""Winograd's convolution is the convolution, whatever the maps' size, layout and type."""

import itertools

import pytest
import torch
from torch.nn import functional

from maskformer.cpu import winograd
from maskformer.network.convolutions import Convolution, convolution_of_same_size
from maskformer.network.mask_product import Projected, mask_product
from tests.maskformer.tiny import make_tiny

LAYOUTS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}


def normal_values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, as a share of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


# Smaller than a tile, no multiple of one, wider than what is taken at once, and several of these.
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (33, 30), (3, 1100), (70, 64)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 6e-3)], ids=str
)
def test_values_and_gradients_are_those_of_the_direct_sum(size, layout, dtype, tolerance):
    maps = normal_values(2, 5, *size).to(dtype).to(memory_format=layout).requires_grad_()
    kernels, bias = normal_values(7, 5, 3, 3, seed=1), normal_values(7, seed=2)
    leaves = (maps, kernels.requires_grad_(), bias.requires_grad_())
    gradient = normal_values(2, 7, *size, seed=3).to(dtype)

    found = winograd.convolution(*leaves)
    expected = functional.conv2d(*(leaf.double() for leaf in leaves), padding=1)

    assert found.dtype == dtype
    assert largest_error(found, expected) < tolerance
    for ours, exact in zip(
        torch.autograd.grad(found, leaves, gradient),
        torch.autograd.grad(expected, leaves, gradient.double()),
        strict=True,
    ):
        assert largest_error(ours, exact) < tolerance


def test_under_autocast_the_result_is_rounded_and_the_kernels_gradient_is_not():
    maps, kernels = normal_values(1, 4, 9, 9), normal_values(6, 4, 3, 3, seed=1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = winograd.convolution(maps, kernels, None)
    found.sum().backward()

    assert found.dtype == torch.bfloat16
    assert kernels.grad is not None
    assert kernels.grad.dtype == torch.float32
    # The rounded maps', with no other error than that of float32.
    rounded = maps.bfloat16().double()
    expected = torch.nn.grad.conv2d_weight(
        rounded, kernels.shape, torch.ones_like(found).double(), padding=1
    )
    assert largest_error(kernels.grad, expected) < 5e-6


def test_an_image_alone_gives_what_it_gives_in_a_batch_to_the_bit():
    maps, kernels = normal_values(3, 130, 36, 40), normal_values(128, 130, 3, 3, seed=1)
    together = convolution_of_same_size(maps, kernels, torch.zeros(128))
    for image, alone in zip(together, maps, strict=True):
        assert torch.equal(
            convolution_of_same_size(alone[None], kernels, torch.zeros(128))[0], image
        )


def test_the_number_of_threads_changes_the_last_bits_at_most():
    maps, kernels = normal_values(1, 128, 37, 40), normal_values(128, 128, 3, 3, seed=1)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(winograd.convolution(maps, kernels, None))
    torch.set_num_threads(threads)
    for one, other in itertools.pairwise(results):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_it_is_for_large_maps_of_many_channels_alone():
    wide, narrow = normal_values(256, 256, 3, 3), normal_values(256, 32, 3, 3)
    assert winograd.suits(normal_values(1, 256, 32, 32), wide)
    assert not winograd.suits(normal_values(1, 256, 24, 24), wide)
    assert not winograd.suits(normal_values(1, 32, 32, 32), narrow)
    assert not winograd.suits(normal_values(1, 256, 32, 32), normal_values(256, 256, 1, 1))
    assert not winograd.suits(normal_values(1, 256, 32, 32).double(), wide.double())
    assert not winograd.suits(normal_values(1, 256, 32, 32).half(), wide.half())
    with torch.autocast("cpu", torch.float16):
        assert not winograd.suits(normal_values(1, 256, 32, 32), wide)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"bias": False}]
)
def test_a_layer_of_any_kind_gives_what_torchs_gives(options):
    layer = Convolution(128, 128, 3, **{"padding": 1, **options})
    plain = torch.nn.Conv2d(128, 128, 3, **{"padding": 1, **options})
    plain.load_state_dict(layer.state_dict())
    maps = normal_values(1, 128, 36, 36)
    assert largest_error(layer(maps), plain(maps)) < 5e-6


def test_a_compiled_layer_is_one_graph():
    layer, maps = Convolution(128, 128, 3, padding=1), normal_values(1, 128, 36, 36)
    exported = torch.export.export(layer, (maps,)).module()
    traced = torch.jit.trace(layer, maps[:, :, :33])
    assert largest_error(exported(maps), layer(maps)) < 5e-6
    assert largest_error(traced(maps), layer(maps)) < 5e-6


def test_the_folded_gradient_of_mask_products_goes_through_it(monkeypatch):
    projection = Convolution(128, 128, 3, padding=1)
    leaves = (
        normal_values(1, 2, 80, 128).requires_grad_(),
        normal_values(1, 128, 36, 33).requires_grad_(),
    )
    gradient = normal_values(1, 2, 80, 36, 33)

    def by() -> tuple[torch.Tensor, ...]:
        embeddings, source = leaves
        product = mask_product(embeddings, Projected.by(projection, source))
        return torch.autograd.grad(product, (*leaves, *projection.parameters()), gradient)

    found = by()
    monkeypatch.setattr(winograd, "suits", lambda *_: False)
    for ours, direct in zip(found, by(), strict=True):
        assert largest_error(ours, direct) < 1e-5


def test_the_model_gives_the_same_masks_with_it_and_without(monkeypatch):
    model = make_tiny(fpn_feature_size=128, mask_feature_size=128)
    pixels = normal_values(1, 3, 132, 160)
    used = []
    original = winograd.convolution
    monkeypatch.setattr(winograd, "convolution", lambda *a: used.append(a) or original(*a))
    with torch.inference_mode():
        found = model(pixel_values=pixels).masks_queries_logits
        assert used
        monkeypatch.setattr(winograd, "suits", lambda *_: False)
        expected = model(pixel_values=pixels).masks_queries_logits
    assert largest_error(found, expected) < 1e-4
