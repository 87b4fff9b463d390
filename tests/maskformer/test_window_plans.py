"""Plans of windows are made once for a shape, spread over any batch, and kept within a bound."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional

from maskformer.configuration import MaskFormerSwinConfig
from maskformer.network import window_attention, window_plans
from maskformer.network.swin import SwinBackbone
from maskformer.network.window_plans import ImagePlan, PlanCache, window_plan

CPU = torch.device("cpu")
SMALL = {
    "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4,
    "out_features": ["stage1", "stage2"],
}  # fmt: skip


def rolled(grid: torch.Tensor, *, window: int, shift: int) -> torch.Tensor:
    """The windows of padded and rolled maps, each a set of values, as the published code cuts."""
    height, width = grid.shape[1:]
    padded = functional.pad(grid, (0, -width % window, 0, -height % window), value=-1)
    padded = torch.roll(padded, (-shift, -shift), (1, 2))
    parts = padded.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return parts.transpose(2, 3).flatten(3).flatten(0, 2)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (9, 6), (4, 4), (3, 2)])
def test_a_batchs_windows_are_those_of_its_padded_and_rolled_maps(batch, shift, size):
    plan = window_plan(batch, *size, window=4, shift=shift, device=CPU)
    count = batch * size[0] * size[1]
    tokens = torch.arange(count).view(batch, *size)
    expected = {tuple(row) for row in rolled(tokens, window=4, shift=shift).tolist()}
    found = plan.token_of_place.masked_fill(plan.token_of_place == count, -1).view(-1, 16)
    assert {tuple(row) for row in found.tolist()} == expected
    assert torch.equal(plan.token_of_place[plan.place_of_token], torch.arange(count))


def test_windows_at_the_edge_come_last_and_their_strangers_are_those_of_one_image():
    alone = window_plan(1, 9, 13, window=4, shift=2, device=CPU)
    together = window_plan(5, 9, 13, window=4, shift=2, device=CPU)
    assert together.strangers is alone.strangers
    assert len(alone.strangers) == 3 + 4 - 1


@pytest.fixture
def small_backbone():
    torch.manual_seed(0)
    return SwinBackbone(MaskFormerSwinConfig(**SMALL)).eval()


@pytest.mark.parametrize("is_compiling", [False, True], ids=["as it is", "as it is compiled"])
def test_attention_in_pieces_gives_the_numbers_of_one_call(
    small_backbone, monkeypatch, is_compiling
):
    values = torch.randn(3, 3, 61, 45)
    whole = [each.detach() for each in small_backbone(values)]
    monkeypatch.setattr(window_attention, "_MOST_WINDOWS", 5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: is_compiling)
    calls = []
    attention = functional.scaled_dot_product_attention

    def counted(query, *rest, **options):
        calls.append(len(query))
        return attention(query, *rest, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    pieces = small_backbone(values)
    assert max(calls) == 5
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    sum(each.sum() for each in pieces).backward()
    assert all(p.grad is not None for p in small_backbone.parameters() if p.requires_grad)


def plan_of(num_bytes: int) -> ImagePlan:
    return ImagePlan(
        inner=torch.zeros(num_bytes // 8, dtype=torch.long),
        edge=torch.zeros(0, dtype=torch.long),
        strangers=torch.zeros(0, 4, 4),
    )


def test_what_is_kept_is_bounded_in_bytes_and_the_plans_used_last_stay():
    cache, made = PlanCache(1000), []

    def get(key: int, num_bytes: int = 400) -> ImagePlan:
        return cache.get(key, lambda: made.append(key) or plan_of(num_bytes))

    assert get(1) is get(1)
    get(2)
    get(1)
    get(3)  # no room for all: the one used longest ago goes
    assert cache.num_bytes == 800
    get(1)
    assert made == [1, 2, 3]
    get(2)
    assert made == [1, 2, 3, 2]
    get(4, 5000)  # larger than all that may be kept
    assert cache.num_bytes == 0
    get(4, 5000)
    assert made == [1, 2, 3, 2, 4, 4]


def test_bytes_are_counted_once_where_threads_make_the_same_plan():
    cache, barrier = PlanCache(10**6), threading.Barrier(2, timeout=20)

    def make() -> ImagePlan:
        barrier.wait()
        return plan_of(400)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: cache.get("k", make), range(2)))
    assert cache.num_bytes == 400


def test_other_batches_of_a_shape_add_no_strangers(small_backbone, monkeypatch):
    cache = PlanCache(2**28)
    monkeypatch.setattr(window_plans, "_PLANS", cache)
    sizes = []
    for batch in (1, 2, 3):
        before = cache.num_bytes
        window_plan(batch, 64, 64, window=7, shift=3, device=CPU)
        sizes.append(cache.num_bytes - before)
    indices = [sizes[1], sizes[2]]
    assert indices[1] == pytest.approx(1.5 * indices[0])
    assert sizes[0] - indices[0] / 2 > (10 + 10 - 1) * 49 * 49 * 4  # made with the first alone


def test_a_plan_that_was_made_in_inference_serves_training(small_backbone):
    values = torch.randn(2, 3, 40, 44)
    with torch.inference_mode():
        small_backbone(values)
    sum(each.sum() for each in small_backbone.train()(values)).backward()
