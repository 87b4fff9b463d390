"""The loss against a plain float64 account of it, against transformers, and at its limits."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from maskformer.criterion import mask_losses
from maskformer.criterion.loss import MaskFormerLoss, step_normalisers
from maskformer.criterion.matcher import MaskFormerHungarianMatcher
from maskformer.criterion.targets import IdMap, expand_masks

NUM_LABELS, QUERIES, SIZE, FULL_SIZE = 5, 8, (6, 8), (24, 32)
EOS = 0.1
KINDS = ("loss_cross_entropy", "loss_mask", "loss_dice")


def make_loss(**settings: str) -> MaskFormerLoss:
    matcher = MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    weights = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
    return MaskFormerLoss(NUM_LABELS, matcher, weights, EOS, **settings)


def draw_logits(images: int, *, seed: int = 0, scale: float = 3.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = scale * torch.randn(images, QUERIES, *SIZE, generator=generator)
    classes = torch.randn(images, QUERIES, NUM_LABELS + 1, generator=generator)
    return {
        "masks_queries_logits": masks.requires_grad_(),
        "class_queries_logits": classes.requires_grad_(),
    }


def draw_targets(num_targets: Sequence[int], *, seed: int = 10) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "mask_labels": [torch.rand(n, *FULL_SIZE, generator=generator) > 0.6 for n in num_targets],
        "class_labels": [torch.randint(NUM_LABELS, (n,), generator=generator) for n in num_targets],
    }


def reference_loss(
    logits: dict[str, Tensor], targets: dict, *, valid: list[Tensor] | None = None
) -> dict[str, Tensor]:
    """The paper's loss of one layer, mask by mask and query by query, in float64."""
    masks, classes = (value.double() for value in logits.values())
    counted = valid or [torch.ones(FULL_SIZE, dtype=torch.bool)] * len(masks)
    focal_sum = dice_sum = class_sum = class_weight = torch.zeros((), dtype=torch.float64)
    for image, (stack, labels) in enumerate(zip(*targets.values(), strict=True)):
        stack, wanted = stack.double(), [NUM_LABELS] * QUERIES
        for query, target in reference_match(
            masks[image].detach(), classes[image].detach(), stack, labels, counted[image]
        ):
            wanted[query] = int(labels[target])
            enlarged = F.interpolate(masks[image, query][None, None], FULL_SIZE, mode="bilinear")
            focal, dice = pair_losses(enlarged[0, 0], stack[target], counted[image])
            focal_sum, dice_sum = focal_sum + focal, dice_sum + dice
        for query, label in enumerate(wanted):
            weight = EOS if label == NUM_LABELS else 1.0
            class_weight = class_weight + weight
            class_sum = class_sum - weight * classes[image, query].log_softmax(0)[label]
    num_masks = max(1, sum(map(len, targets["class_labels"])))
    values = (class_sum / class_weight, focal_sum / num_masks, dice_sum / num_masks)
    return dict(zip(KINDS, values, strict=True))


def reference_match(
    masks: Tensor, classes: Tensor, stack: Tensor, labels: Tensor, counted: Tensor
) -> list[tuple[int, int]]:
    costs = torch.zeros(QUERIES, len(stack), dtype=torch.float64)
    small = F.interpolate(stack[:, None], SIZE)[:, 0]
    seen = F.interpolate(counted[None, None].double(), SIZE)[0, 0].bool()
    for query in range(QUERIES):
        for target in range(len(stack)):
            focal, dice = pair_losses(masks[query], small[target], seen)
            costs[query, target] = 20 * focal + dice - classes[query].softmax(0)[labels[target]]
    return list(zip(*linear_sum_assignment(costs), strict=True))


def pair_losses(logits: Tensor, mask: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    logits, mask = logits[counted], mask[counted]
    p = logits.sigmoid()
    p_t = torch.where(mask == 1, p, 1 - p)
    alpha_t = torch.where(mask == 1, 0.25, 0.75)
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
    return (alpha_t * (1 - p_t) ** 2 * entropy).mean(), dice


def gradients(losses: dict[str, Tensor], logits: dict[str, Tensor]) -> list[Tensor]:
    total = sum(losses[kind] * weight for kind, weight in zip(KINDS, (1, 20, 1), strict=True))
    return list(torch.autograd.grad(total, list(logits.values()), materialize_grads=True))


COUNTS = [[0], [1], [7], [0, 1, 7], [0, 0], [QUERIES], [QUERIES + 4, 2]]


@pytest.mark.parametrize("num_targets", COUNTS, ids=str)
def test_losses_and_gradients_are_those_of_the_reference(num_targets: list[int]) -> None:
    logits, targets = draw_logits(len(num_targets)), draw_targets(num_targets)
    losses, expected = make_loss()(**logits, **targets), reference_loss(logits, targets)
    for kind in KINDS:
        torch.testing.assert_close(losses[kind].double(), expected[kind], rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(gradients(losses, logits), gradients(expected, logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_losses_and_gradients_are_those_of_transformers() -> None:
    theirs = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    logits, targets = draw_logits(3), draw_targets([2, 1, 7])
    as_floats = {**targets, "mask_labels": [masks.float() for masks in targets["mask_labels"]]}
    matcher = theirs.MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    expected = theirs.MaskFormerLoss(NUM_LABELS, matcher, {}, EOS)(**logits, **as_floats)
    losses = make_loss()(**logits, **as_floats)
    assert losses.keys() == expected.keys()
    for kind in KINDS:
        torch.testing.assert_close(losses[kind], expected[kind], rtol=1e-4, atol=1e-6)
    for ours, other in zip(gradients(losses, logits), gradients(expected, logits), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-7)


def test_the_methods_of_transformers_take_its_arguments() -> None:
    theirs = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    matcher = theirs.MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    other, loss = theirs.MaskFormerLoss(NUM_LABELS, matcher, {}, EOS), make_loss()
    logits, targets = draw_logits(2), draw_targets([3, 2])
    masks, labels = [masks.float() for masks in targets["mask_labels"]], targets["class_labels"]
    indices = matcher(*logits.values(), masks, labels)
    assert (
        loss.get_num_masks(labels, device="cpu") == other.get_num_masks(labels, device="cpu") == 5
    )
    for ours, expected in [
        (
            loss.loss_labels(logits["class_queries_logits"], labels, indices),
            other.loss_labels(logits["class_queries_logits"], labels, indices),
        ),
        (
            loss.loss_masks(logits["masks_queries_logits"], masks, indices, 5),
            other.loss_masks(logits["masks_queries_logits"], masks, indices, 5),
        ),
    ]:
        assert ours.keys() == expected.keys()
        for kind in ours:
            torch.testing.assert_close(ours[kind], expected[kind])
    assert torch.equal(loss.empty_weight, other.empty_weight)
    assert set(loss.state_dict()) == {"empty_weight"}


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_targets_and_queries_does_not_matter(seed: int) -> None:
    logits, targets = draw_logits(2, seed=seed), draw_targets([5, 2], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randperm(QUERIES, generator=generator)
    orders = [torch.randperm(n, generator=generator) for n in (5, 2)]
    shuffled_logits = {name: value[:, queries] for name, value in logits.items()}
    shuffled_targets = {
        name: [value[order] for value, order in zip(values, orders, strict=True)]
        for name, values in targets.items()
    }
    losses = make_loss()(**logits, **targets)
    for kind, loss in make_loss()(**shuffled_logits, **shuffled_targets).items():
        torch.testing.assert_close(loss, losses[kind])


def test_each_auxiliary_layer_has_the_losses_of_a_layer_alone() -> None:
    layers, targets = [draw_logits(2, seed=seed) for seed in range(4)], draw_targets([3, 1])
    together = make_loss()(**layers[0], **targets, auxiliary_predictions=layers[1:])
    assert len(together) == 3 * 4
    for suffix, layer in zip(("", "_0", "_1", "_2"), layers, strict=True):
        for kind, loss in make_loss()(**layer, **targets).items():
            torch.testing.assert_close(together[kind + suffix], loss)


def test_an_id_map_gives_the_loss_of_its_masks() -> None:
    logits, labels = draw_logits(1), torch.tensor([2, 0, 4])
    drawn = torch.randint(5, FULL_SIZE, dtype=torch.uint8)
    ids = torch.tensor([3, 0, 1])
    stack = torch.stack([drawn == value for value in ids])
    from_map = make_loss()(**logits, mask_labels=[IdMap(map=drawn, ids=ids)], class_labels=[labels])
    from_stack = make_loss()(**logits, mask_labels=[stack], class_labels=[labels])
    for kind in KINDS:
        assert torch.equal(from_map[kind], from_stack[kind])


def test_a_smaller_target_is_padded_as_its_image_is() -> None:
    logits, targets = draw_logits(2), draw_targets([2, 3])
    small = targets["mask_labels"][1][:, :20, :25]
    padded = F.pad(small, (0, 7, 0, 4))
    cut, whole = ([targets["mask_labels"][0], masks] for masks in (small, padded))
    losses = make_loss()(**logits, **{**targets, "mask_labels": cut})
    for kind, loss in make_loss()(**logits, **{**targets, "mask_labels": whole}).items():
        assert torch.equal(losses[kind], loss)


def test_pixels_that_are_not_valid_leave_loss_and_gradient_alone() -> None:
    logits, targets = draw_logits(2), draw_targets([4, 2])
    valid = [torch.rand(FULL_SIZE) > 0.3, torch.zeros(FULL_SIZE, dtype=torch.bool)]
    valid[1][:, :16] = True
    losses = make_loss()(**logits, **targets, valid=valid)
    expected = reference_loss(logits, targets, valid=valid)
    changed = [masks ^ ~plane for masks, plane in zip(targets["mask_labels"], valid, strict=True)]
    others = make_loss()(**logits, **{**targets, "mask_labels": changed}, valid=valid)
    for kind in KINDS:
        torch.testing.assert_close(losses[kind].double(), expected[kind], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(losses[kind], others[kind])
    for ours, theirs in zip(gradients(losses, logits), gradients(expected, logits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    unmasked = make_loss()(**logits, **targets)
    assert not torch.isclose(losses["loss_mask"], unmasked["loss_mask"], rtol=1e-3)


def test_an_image_without_a_valid_pixel_has_no_mask_loss() -> None:
    logits, targets = draw_logits(1), draw_targets([3])
    losses = make_loss()(**logits, **targets, valid=[torch.zeros(FULL_SIZE, dtype=torch.bool)])
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert not gradients(losses, logits)[0].any()


def test_valid_of_another_size_than_the_masks_is_refused() -> None:
    valid = [torch.ones(4, 4, dtype=torch.bool)]
    with pytest.raises(
        ValueError, match=r"image 0 of the batch has \(4, 4\) for masks of \(24, 32\)"
    ):
        make_loss()(**draw_logits(1), **draw_targets([3]), valid=valid)


@pytest.mark.parametrize("valid", [None, torch.arange(48).view(6, 8) % 5 > 0], ids=["all", "valid"])
def test_the_written_out_gradient_is_the_numerical_one(valid: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(2, 4, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = [torch.rand(n, 6, 8, generator=generator) > 0.5 for n in (3, 1)]
    indices = [
        (torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1])),
        (torch.tensor([2]), torch.tensor([0])),
    ]
    planes = None if valid is None else [valid, valid]

    def both(logits: Tensor) -> tuple[Tensor, ...]:
        return tuple(make_loss().loss_masks(logits, labels, indices, 3, valid=planes).values())

    assert torch.autograd.gradcheck(both, masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("magnitude", [1.0, 1e4])
def test_half_precision_changes_nothing_but_the_rounding_of_the_logits(
    dtype: torch.dtype, magnitude: float
) -> None:
    targets = draw_targets([4, 0])
    halves = {
        name: (value.detach().sign() * magnitude if magnitude > 1 else value.detach())
        .to(dtype)
        .requires_grad_()
        for name, value in draw_logits(2).items()
    }
    singles = {name: value.detach().float().requires_grad_() for name, value in halves.items()}
    with torch.autocast("cpu", dtype=dtype):
        losses = make_loss()(**halves, **targets)
    expected = make_loss()(**singles, **targets)
    for kind in KINDS:
        assert losses[kind].dtype == torch.float32
        assert losses[kind].isfinite()
        torch.testing.assert_close(losses[kind], expected[kind])
    assert all(gradient.isfinite().all() for gradient in gradients(losses, halves))


class TinyModel(nn.Module):
    """Pixels in, logits of two layers out; every parameter is on the way to some logit."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(3, 8, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(2, QUERIES, 8))
        self.classes = nn.Linear(8, NUM_LABELS + 1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        features = self.pixels(images)
        pooled = self.queries[:, None] + features.mean((2, 3))[None, :, None]
        masks = torch.einsum("lbqc,bchw->lbqhw", pooled, features)
        return [
            {"masks_queries_logits": mask, "class_queries_logits": classes}
            for mask, classes in zip(masks, self.classes(pooled), strict=True)
        ]


@pytest.mark.parametrize("num_targets", [[3, 1], [0, 0]], ids=["targets", "no target"])
def test_gradients_reach_every_parameter(num_targets: list[int]) -> None:
    model = TinyModel()
    last, *auxiliary = model(torch.randn(2, 3, *FULL_SIZE))
    losses = make_loss()(**last, **draw_targets(num_targets), auxiliary_predictions=auxiliary)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_mask_losses_alone_stay_connected_without_a_target() -> None:
    logits = draw_logits(2)
    losses = make_loss()(**logits, **draw_targets([0, 0]))
    (gradient,) = torch.autograd.grad(losses["loss_mask"], logits["masks_queries_logits"])
    assert not gradient.any()


def broken_logits() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    good, bad = draw_logits(2), {n: v.detach().clone() for n, v in draw_logits(2, seed=1).items()}
    bad["masks_queries_logits"][1, 2:4, 0, 0] = torch.nan
    return good, {name: value.requires_grad_() for name, value in bad.items()}


def test_broken_logits_are_raised_with_image_layer_and_number() -> None:
    good, bad = broken_logits()
    loss = make_loss()
    with pytest.raises(FloatingPointError, match="image 1, auxiliary layer 0: 2;"):
        loss(**good, **draw_targets([2, 2]), auxiliary_predictions=[bad])
    with pytest.raises(FloatingPointError, match="image 1, last layer: 2;"):
        loss(**bad, **draw_targets([2, 0]), auxiliary_predictions=[good])
    assert loss.num_non_finite == 4


def test_a_step_with_broken_logits_can_be_skipped_by_its_gradient_norm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = broken_logits()
    loss = make_loss(non_finite="skip")
    losses = loss(**good, **draw_targets([2, 2]), auxiliary_predictions=[bad])
    assert all(value.isnan() for value in losses.values())
    sum(losses.values()).backward()
    assert nn.utils.get_total_norm(value.grad for value in good.values()).isnan()
    assert loss.num_non_finite == 2
    assert "image 1, auxiliary layer 0: 2" in caplog.text
    assert all(v.isfinite() for v in loss(**good, **draw_targets([2, 2])).values())


def test_micro_batches_with_the_steps_normalisers_add_up_to_the_whole_batch() -> None:
    logits, targets = draw_logits(3), draw_targets([5, 0, QUERIES + 2])
    whole = make_loss()(**logits, **targets)
    micro_batches = [slice(0, 1), slice(1, 3)]
    normalisers = step_normalisers(
        [targets["class_labels"][part] for part in micro_batches],
        num_queries=QUERIES,
        eos_coef=EOS,
        device="cpu",
    )
    summed = dict.fromkeys(KINDS, torch.zeros(()))
    for part in micro_batches:
        losses = make_loss()(
            **{name: value[part] for name, value in logits.items()},
            **{name: value[part] for name, value in targets.items()},
            num_masks=normalisers.num_masks,
            class_weight=normalisers.class_weight,
        )
        summed = {kind: summed[kind] + losses[kind] for kind in KINDS}
    for kind in KINDS:
        torch.testing.assert_close(summed[kind], whole[kind])


def test_normalisers_of_nothing_divide_by_no_zero() -> None:
    normalisers = step_normalisers([], num_queries=QUERIES, eos_coef=0.0, device="cpu")
    assert normalisers.num_masks == 1
    assert normalisers.class_weight > 0


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("as_map", [False, True])
def test_the_compiled_loop_gives_what_torchs_operations_give(with_valid, as_map):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 9, 7, generator=generator) * torch.tensor([0.1, 1, 10, 100, 1e4]).view(
        5, 1, 1
    )
    id_map = torch.randint(0, 4, (31, 28), generator=generator)
    labels = IdMap(map=id_map.short(), ids=torch.tensor([2, 0, 3]))
    chosen = torch.tensor([1, 1, 0, 2, 2])
    options = {
        "chosen": chosen,
        "valid": torch.rand(31, 28, generator=generator) > 0.3 if with_valid else None,
    }
    targets = labels if as_map else expand_masks(labels)
    looped = mask_losses._by_loops(logits, targets, **options)
    exact = mask_losses._by_operations(logits.double(), targets, **options)
    for found, wanted in zip(looped, exact, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=2e-5)
