"""Attention in windows as GPUs do it: the same numbers, from fewer bytes and launches."""

from collections.abc import Iterator

import pytest
import torch
from counted_operations import bytes_moved, launches
from torch.nn import functional

from maskformer.configuration import MaskFormerSwinConfig
from maskformer.network import window_attention, window_plans
from maskformer.network.swin import SwinBackbone
from maskformer.network.window_attention import WindowAttention

SMALL = {
    "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7,
    "out_features": ["stage1", "stage2"],
}  # fmt: skip
SIZES = [(61, 45), (28, 28), (12, 20), (100, 24)]


def noisy_backbone(**values: object) -> SwinBackbone:
    torch.manual_seed(0)
    model = SwinBackbone(MaskFormerSwinConfig(**{**SMALL, **values})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "saves_bytes", lambda tokens: not torch.is_grad_enabled())


@pytest.mark.parametrize("gathers", ["first", "after", "by size"])
@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_are_those_of_the_cpus_way(as_on_a_gpu, monkeypatch, gathers, size):
    worth = {"first": 10**9, "after": -1, "by size": window_attention._WORTH_BYTES}[gathers]
    monkeypatch.setattr(window_attention, "_WORTH_BYTES", worth)
    values = torch.randn(2, 3, *size)
    for model in (noisy_backbone(), noisy_backbone(qkv_bias=False)):
        expected = [each.detach() for each in model(values)]
        for keeps in (False, True):
            if keeps:
                for module in model.modules():
                    if isinstance(module, WindowAttention):
                        module.keep_position_bias()
            with torch.inference_mode():
                for ours, theirs in zip(model(values), expected, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_kept_bias_changes_no_bit_and_is_forgotten_when_weights_are_loaded():
    model, values = noisy_backbone(), torch.randn(2, 3, 61, 45)
    attention = next(each for each in model.modules() if isinstance(each, WindowAttention))
    expected = [each.detach() for each in model(values)]
    attention.keep_position_bias()
    assert all(torch.equal(a, b) for a, b in zip(model(values), expected, strict=True))
    torch.nn.init.zeros_(attention.relative_position_bias_table)
    weights = model.state_dict()
    attention._kept_bias = None
    changed = noisy_backbone()
    next(
        each for each in changed.modules() if isinstance(each, WindowAttention)
    ).keep_position_bias()
    changed.load_state_dict(weights)
    assert all(
        torch.equal(a, b) for a, b in zip(changed(values), model.eval()(values), strict=True)
    )
    assert not torch.equal(changed(values)[0], expected[0])


def test_no_row_of_a_bias_is_one_that_cudas_attention_copies(as_on_a_gpu, monkeypatch):
    strides, attention = [], functional.scaled_dot_product_attention

    def noted(query, key, value, *, attn_mask, **options):
        strides.extend(attn_mask.stride()[:-1])
        return attention(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    with torch.inference_mode():
        noisy_backbone(embed_dim=16, num_heads=(2, 4))(torch.randn(2, 3, 61, 45))
    assert strides
    assert all(stride % 8 == 0 for stride in strides)


def test_a_batch_of_another_number_needs_no_plan_of_its_own(as_on_a_gpu, monkeypatch):
    cache = window_plans.PlanCache(2**28)
    monkeypatch.setattr(window_plans, "_PLANS", cache)
    model, sizes = noisy_backbone(), []
    for batch in (1, 2, 5):
        with torch.inference_mode():
            model(torch.randn(batch, 3, 61, 45))
        sizes.append(cache.num_bytes)
    assert sizes == sizes[:1] * 3


@torch.no_grad()
def test_blocks_ask_for_fewer_launches_and_bytes(monkeypatch):
    model = noisy_backbone(embed_dim=32, depths=(2, 2), num_heads=(1, 2))
    values = torch.randn(4, 3, 100, 132)
    counts, sizes = [], []
    for is_gpu in (False, True):
        monkeypatch.setattr(window_attention, "saves_bytes", lambda tokens, is_gpu=is_gpu: is_gpu)
        if is_gpu:
            for module in model.modules():
                if isinstance(module, WindowAttention):
                    module.keep_position_bias()
        model(values)  # makes what is kept
        counts.append(launches(lambda: model(values)))
        sizes.append(bytes_moved(lambda: model(values)))
    # The model has four blocks. On a GPU, copies of biases inside of attention are gone as well.
    assert counts[1].total() <= counts[0].total() - 10
    assert sizes[1] < 0.92 * sizes[0]
