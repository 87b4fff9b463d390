"""Overlapping masks as runs give what a stack of them gives: pixels, matches and losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from torch import Tensor

from maskformer import MaskFormerHungarianMatcher, MaskFormerLoss, MaskRuns, rle_runs
from maskformer.criterion import mask_losses, matcher
from maskformer.criterion.targets import expand_masks, pad_to_batch, sample_labels

HEIGHT, WIDTH = 31, 28


def drawn_stack(*, seed: int = 0, number: int = 4) -> Tensor:
    """Boxes with holes that overlap; the last two are alike, and one is empty."""
    random = np.random.default_rng(seed)
    masks = np.zeros((number + 2, HEIGHT, WIDTH), bool)
    for mask in masks[:number]:
        top, left = random.integers(0, HEIGHT // 2), random.integers(0, WIDTH // 2)
        mask[top : top + random.integers(4, 20), left : left + random.integers(4, 20)] = True
        mask[random.random(mask.shape) < 0.2] = False
    masks[number + 1] = masks[number - 1]
    return torch.from_numpy(masks)


def runs_of(stack: Tensor, **places: Tensor) -> MaskRuns:
    masks = np.asfortranarray(stack.numpy().astype(np.uint8).transpose(1, 2, 0))
    rles = [rle["counts"].decode() for rle in coco.encode(masks)]
    height, width = stack.shape[1:]
    return MaskRuns.of(
        [rle_runs(rle, height=height, width=width) for rle in rles],
        rows=places.get("rows", torch.arange(height)),
        columns=places.get("columns", torch.arange(width)),
        image_height=height,
    )


def test_runs_are_expanded_to_the_masks_that_were_encoded() -> None:
    stack = drawn_stack()
    masks = runs_of(stack)
    chosen = torch.tensor([5, 0, 4])
    assert masks.shape == tuple(stack.shape)
    assert torch.equal(expand_masks(masks), stack)
    assert torch.equal(expand_masks(masks, chosen=chosen), stack[chosen])
    assert torch.equal(torch.from_numpy(masks.plane(1)).bool(), stack[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.integers(0, 5), st.integers(1, 40))
def test_rows_and_columns_choose_pixels_as_an_index_does(
    seed: int, is_mirrored: bool, padding: int, count: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    stack = drawn_stack(seed=seed)
    rows = torch.randint(HEIGHT, (count,), generator=random).sort().values
    columns = torch.randint(WIDTH, (count,), generator=random).sort(descending=is_mirrored).values
    masks = runs_of(stack, rows=rows, columns=columns).padded((count + padding, count + padding))
    expected = torch.zeros(len(stack), count + padding, count + padding, dtype=torch.bool)
    expected[:, :count, :count] = stack[:, rows[:, None], columns]
    assert torch.equal(masks.expanded(None), expected)
    shown = [masks.shows(mask) for mask in range(len(stack))]
    assert shown == expected.flatten(1).any(1).tolist()
    # As a GPU does it.
    assert torch.equal(masks.searched(None), expected)
    assert torch.equal(masks.searched(torch.tensor([3, 0])), expected[[3, 0]])


def test_runs_of_columns_that_a_crop_left_out_are_not_kept() -> None:
    stack = drawn_stack()
    part = runs_of(stack, columns=torch.arange(4))
    assert len(part.edges) < len(runs_of(stack).edges) / 3
    assert torch.equal(part.expanded(None), stack[:, :, :4])


def test_an_image_without_masks_has_runs_of_none() -> None:
    for stack in (torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool), torch.zeros(2, 3, 4).bool()):
        masks = runs_of(stack)
        assert torch.equal(masks.expanded(None), stack)
        assert torch.equal(masks.searched(None), stack)


def test_runs_are_padded_and_sampled_as_the_stack_is() -> None:
    stack, other = drawn_stack(), torch.zeros(1, 40, 44)
    chosen = torch.tensor([2, 5])
    (runs, _), _ = pad_to_batch([runs_of(stack), other], valid=None)
    (padded, _), _ = pad_to_batch([stack, other], valid=None)
    assert torch.equal(expand_masks(runs, chosen=chosen), expand_masks(padded, chosen=chosen))
    small, expected = (sample_labels(each, size=(11, 9)) for each in (runs, padded))
    assert torch.equal(expand_masks(small), expected)


@pytest.mark.parametrize("with_valid", [False, True])
def test_the_loss_of_runs_is_that_of_the_stack_to_the_bit(with_valid: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 8, 9, 7, generator=generator, requires_grad=True)
    classes = torch.randn(1, 8, 6, generator=generator)
    stack, labels = drawn_stack(), torch.tensor([0, 1, 1, 2, 4, 1])
    valid = [torch.rand(HEIGHT, WIDTH, generator=generator) > 0.3] if with_valid else None
    results = []
    for masks in (runs_of(stack), stack):
        criterion = MaskFormerLoss(5, MaskFormerHungarianMatcher(1.0, 20.0, 1.0), {}, 0.1)
        losses = criterion(logits, classes, [masks], [labels], valid=valid)
        [gradient] = torch.autograd.grad(sum(losses.values()), logits)
        results.append((losses, gradient))
    (found, found_gradient), (expected, expected_gradient) = results
    for kind, loss in expected.items():
        assert torch.equal(found[kind], loss)
    assert torch.equal(found_gradient, expected_gradient)


def test_many_masks_are_matched_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = {
        "masks_queries_logits": torch.randn(1, 8, 9, 7, generator=generator),
        "class_queries_logits": torch.randn(1, 8, 6, generator=generator),
        "class_labels": [torch.tensor([0, 1, 1, 2, 4, 1])],
    }
    for masks in (runs_of(drawn_stack()), drawn_stack()):
        finder = MaskFormerHungarianMatcher(1.0, 20.0, 1.0)
        [expected] = finder(**logits, mask_labels=[masks])
        monkeypatch.setattr(matcher, "_PIXELS_AT_ONCE", 2 * 9 * 7)
        [found] = finder(**logits, mask_labels=[masks])
        monkeypatch.undo()
        assert torch.equal(found.queries, expected.queries)
        assert torch.equal(found.targets, expected.targets)


def test_the_compiled_loop_and_torchs_operations_agree_on_runs() -> None:
    logits = torch.randn(3, 9, 7, generator=torch.Generator().manual_seed(2))
    options = {"chosen": torch.tensor([5, 0, 2]), "valid": None}
    looped = mask_losses._by_loops(logits, runs_of(drawn_stack()), **options)
    exact = mask_losses._by_operations(logits.double(), runs_of(drawn_stack()), **options)
    for found, wanted in zip(looped, exact, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=2e-5)


def test_many_masks_alike_take_memory_by_their_outlines() -> None:
    """200 discs over most of 12 megapixels: a stack takes 2.4 GB."""
    height, width, radius = 3000, 4000, 1450
    row, column = np.ogrid[:height, :width]
    disc = (row - height // 2) ** 2 + (column - width // 2) ** 2 < radius**2
    rle = coco.encode(np.asfortranarray(disc, np.uint8))["counts"].decode()
    runs = rle_runs(rle, height=height, width=width)
    whole = {"rows": torch.arange(height), "columns": torch.arange(width)}
    masks = MaskRuns.of([runs] * 200, image_height=height, **whole)
    tensors = (masks.edges, masks.offsets, masks.rows, masks.columns)
    assert sum(each.numel() * each.element_size() for each in tensors) < height * width
    assert np.array_equal(masks.plane(199), disc)
