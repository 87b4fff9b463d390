"""The matcher against every assignment there is, against transformers, and on all target forms."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from maskformer.criterion.matcher import MaskFormerHungarianMatcher
from maskformer.criterion.targets import IdMap, expand_masks, pad_to_batch, sample_labels

NUM_LABELS, QUERIES, SIZE, FULL_SIZE = 5, 6, (7, 9), (28, 33)


def draw_problem(num_targets: list[int], *, seed: int = 0) -> dict[str, Tensor | list[Tensor]]:
    """Logits and targets of one batch; masks may overlap."""
    generator = torch.Generator().manual_seed(seed)
    images = len(num_targets)
    return {
        "masks_queries_logits": 3 * torch.randn(images, QUERIES, *SIZE, generator=generator),
        "class_queries_logits": torch.randn(images, QUERIES, NUM_LABELS + 1, generator=generator),
        "mask_labels": [
            torch.rand(count, *FULL_SIZE, generator=generator) > 0.6 for count in num_targets
        ],
        "class_labels": [
            torch.randint(NUM_LABELS, (count,), generator=generator) for count in num_targets
        ],
    }


def reference_costs(masks: Tensor, classes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """The published cost of each pair, one at a time, in float64."""
    small = torch.nn.functional.interpolate(targets[:, None].double(), size=masks.shape[-2:])[:, 0]
    costs = torch.zeros(len(masks), len(targets), dtype=torch.float64)
    for query, (logits, scores) in enumerate(zip(masks.double(), classes.double(), strict=True)):
        p = 1 / (1 + torch.exp(-logits))
        for target, (mask, label) in enumerate(zip(small, labels, strict=True)):
            focal = torch.where(
                mask == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
            ).mean()
            dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
            costs[query, target] = 20 * focal + dice - scores.softmax(0)[label]
    return costs


@pytest.fixture
def matcher() -> MaskFormerHungarianMatcher:
    return MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_is_cheaper(matcher: MaskFormerHungarianMatcher, seed: int) -> None:
    batch = draw_problem([3], seed=seed)
    costs = reference_costs(*(value[0] for value in batch.values()))
    match = matcher(**batch)[0]
    cheapest = min(
        sum(costs[query, target] for target, query in enumerate(order))
        for order in permutations(range(QUERIES), 3)
    )
    torch.testing.assert_close(costs[match.queries, match.targets].sum(), cheapest)


def test_matches_are_those_of_transformers(matcher: MaskFormerHungarianMatcher) -> None:
    theirs = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    batch = draw_problem([3, 1, QUERIES + 2])
    as_floats = {**batch, "mask_labels": [masks.float() for masks in batch["mask_labels"]]}
    expected = theirs.MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)(
        **as_floats
    )
    for (queries, targets), match in zip(expected, matcher(**batch), strict=True):
        assert queries.tolist() == match.queries.tolist()
        assert targets.tolist() == match.targets.tolist()


@pytest.mark.parametrize("count", [0, 1, QUERIES, QUERIES + 3])
def test_a_match_is_as_long_as_the_shorter_side(
    matcher: MaskFormerHungarianMatcher, count: int
) -> None:
    match = matcher(**draw_problem([count]))[0]
    assert len(match.queries) == len(match.targets) == min(count, QUERIES)
    assert (
        len(set(match.queries.tolist())) == len(set(match.targets.tolist())) == len(match.targets)
    )


def test_the_order_of_targets_does_not_matter(matcher: MaskFormerHungarianMatcher) -> None:
    batch = draw_problem([4])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {
        **batch,
        "mask_labels": [batch["mask_labels"][0][order]],
        "class_labels": [batch["class_labels"][0][order]],
    }
    match, other = matcher(**batch)[0], matcher(**shuffled)[0]
    assert other.queries.tolist() == match.queries.tolist()
    assert order[other.targets].tolist() == match.targets.tolist()


def test_layers_together_are_matched_as_each_alone(matcher: MaskFormerHungarianMatcher) -> None:
    batches = [
        {**draw_problem([2, 0, 7]), **logits_of(draw_problem([2, 0, 7], seed=seed))}
        for seed in (1, 2, 3)
    ]
    together = matcher.match_layers(
        [batch["masks_queries_logits"] for batch in batches],
        [batch["class_queries_logits"] for batch in batches],
        batches[0]["mask_labels"],
        batches[0]["class_labels"],
    )
    for layer, batch in zip(together.layers, batches, strict=True):
        for match, alone in zip(layer, matcher(**batch), strict=True):
            assert match.queries.tolist() == alone.queries.tolist()
            assert match.targets.tolist() == alone.targets.tolist()


def logits_of(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name.endswith("_logits")}


@pytest.mark.parametrize("seed", range(20))
def test_pixels_that_are_not_valid_are_as_if_cut_off(
    matcher: MaskFormerHungarianMatcher, seed: int
) -> None:
    batch = draw_problem([5], seed=seed)
    valid = torch.zeros(FULL_SIZE, dtype=torch.bool)
    valid[:8] = True  # two of seven rows of logits
    matching = matcher.match_layers(
        [batch["masks_queries_logits"]],
        [batch["class_queries_logits"]],
        batch["mask_labels"],
        batch["class_labels"],
        valid=[valid],
    )
    cut = matcher(
        batch["masks_queries_logits"][:, :, :2],
        batch["class_queries_logits"],
        [batch["mask_labels"][0][:, :8]],
        batch["class_labels"],
    )
    assert matching.layers[0][0].targets.tolist() == cut[0].targets.tolist()
    assert matching.layers[0][0].queries.tolist() == cut[0].queries.tolist()


def test_all_costs_come_to_the_host_in_one_copy(
    matcher: MaskFormerHungarianMatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, copies, to_host = draw_problem([2, 0, 7]), [], Tensor.cpu
    monkeypatch.setattr(
        Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or to_host(tensor)
    )
    masks, classes = batch["masks_queries_logits"], batch["class_queries_logits"]
    matcher.match_layers([masks] * 6, [classes] * 6, batch["mask_labels"], batch["class_labels"])
    assert len(copies) == 1


def test_a_broken_query_is_counted_and_left_to_the_last(
    matcher: MaskFormerHungarianMatcher,
) -> None:
    batch = draw_problem([3, 0])
    good = [batch["masks_queries_logits"].clone(), batch["class_queries_logits"].clone()]
    taken = matcher(**batch)[0].queries[0]
    batch["masks_queries_logits"][0, taken, 2, 3] = torch.nan
    batch["class_queries_logits"][1, 4, 0] = torch.inf
    matching = matcher.match_layers(
        [batch["masks_queries_logits"], good[0]],
        [batch["class_queries_logits"], good[1]],
        batch["mask_labels"],
        batch["class_labels"],
    )
    assert matching.broken_queries.tolist() == [[1, 1], [0, 0]]
    assert taken not in matching.layers[0][0].queries
    assert taken in matching.layers[1][0].queries


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_a_match(
    matcher: MaskFormerHungarianMatcher, dtype: torch.dtype
) -> None:
    batch = draw_problem([4, 2])
    with torch.autocast("cpu", dtype=dtype):
        inside = matcher(**batch)
    for match, alone in zip(inside, matcher(**batch), strict=True):
        assert match.targets.tolist() == alone.targets.tolist()


@pytest.mark.parametrize("wrong", [-1, NUM_LABELS, 255])
def test_a_label_out_of_range_is_told_with_its_image(
    matcher: MaskFormerHungarianMatcher, wrong: int
) -> None:
    batch = draw_problem([2, 3])
    batch["class_labels"][1][2] = wrong
    with pytest.raises(ValueError, match=rf"\[0, 5\), image 1 of the batch has {wrong}"):
        matcher(**batch)


def test_as_many_labels_as_masks_are_needed(matcher: MaskFormerHungarianMatcher) -> None:
    batch = draw_problem([2, 3])
    batch["class_labels"][1] = batch["class_labels"][1][:2]
    with pytest.raises(ValueError, match=r"\[2, 3\] masks by image, class_labels \[2, 2\]"):
        matcher(**batch)


def test_a_matcher_without_any_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="all three are 0"):
        MaskFormerHungarianMatcher(cost_class=0, cost_mask=0, cost_dice=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_an_id_map_holds_the_masks_of_the_stack_it_stands_for(dtype: torch.dtype) -> None:
    ids = torch.tensor([4, 0, 9], dtype=dtype)
    drawn = torch.tensor([0, 4, 9, 200])[torch.randint(4, (10, 11))].to(dtype)
    id_map, stack = IdMap(map=drawn, ids=ids), torch.stack([drawn == value for value in ids])
    assert id_map.shape == tuple(stack.shape)
    other = torch.zeros(1, 12, 20)
    (padded_map, _), _ = pad_to_batch([id_map, other], valid=None)
    (padded_stack, _), _ = pad_to_batch([stack, other], valid=None)
    chosen = torch.tensor([2, 1])
    assert torch.equal(
        expand_masks(padded_map, chosen=chosen), expand_masks(padded_stack, chosen=chosen)
    )
    small_map, small_stack = (sample_labels(x, size=(3, 5)) for x in (padded_map, padded_stack))
    assert torch.equal(expand_masks(small_map), expand_masks(small_stack))
    assert padded_map.shape[1:] == (12, 20)
    assert not expand_masks(padded_map)[:, 10:].any()


@pytest.mark.parametrize(("length", "count"), [(33, 9), (100, 25), (64, 64), (47, 12), (513, 129)])
def test_sampling_reads_the_pixels_that_torch_reads(length: int, count: int) -> None:
    masks = torch.rand(2, length, length) > 0.5
    expected = torch.nn.functional.interpolate(masks[:, None].float(), size=count)[:, 0]
    assert torch.equal(sample_labels(masks, size=(count, count)).float(), expected)
