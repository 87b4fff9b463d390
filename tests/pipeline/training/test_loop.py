"""Steps of one process: what they change, and what stops them."""

import copy

import pytest
import torch
from counted_operations import reads
from tiny_training import drawn_batch, tiny_config, tiny_model

from maskformer import MaskFormerForInstanceSegmentation, ResNetConfig, model
from maskformer.criterion import pieces
from maskformer.network.mask_product import Projected
from pipeline.training.batches import Batch
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings


def trainer(**settings: object) -> Trainer:
    return Trainer(tiny_model(), settings=_settings(**settings), seed=3)


def _settings(**values: object) -> OptimisationSettings:
    return OptimisationSettings(**{"num_steps": 100, "learning_rate": 1e-3, **values})


def step_batches(step: int) -> list[Batch]:
    return [drawn_batch([0, 1, 2, 3], num_masks=[3, 0, 1, 2], seed=step)]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.delivered.parameters()])


def with_nan(batch: Batch) -> Batch:
    batch.pixel_values[0, 0, 0, 0] = torch.nan
    return batch


def test_micro_batches_give_the_step_of_the_whole_batch():
    whole, parts = trainer(), trainer()
    for step in range(3):
        [batch] = step_batches(step)
        pieces = [
            drawn_batch([0], num_masks=[3], seed=step),
            drawn_batch([1], num_masks=[0], seed=step),
            drawn_batch([2, 3], num_masks=[1, 2], seed=step),
        ]
        at_once = whole.step([batch], step=step)
        in_parts = parts.step(pieces, step=step)
        for name, loss in at_once.losses.items():
            torch.testing.assert_close(in_parts.losses[name], loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)


def test_a_trainer_that_goes_on_from_a_state_gives_the_losses_of_one_that_never_stopped():
    unbroken = Trainer(tiny_model_with_dropout(), settings=_settings(average_decay=0.9), seed=3)
    for step in range(2):
        unbroken.step(step_batches(step), step=step)
    model, state = copy.deepcopy(unbroken.delivered), copy.deepcopy(unbroken.state_dict())
    resumed = Trainer(model.requires_grad_(True), settings=_settings(average_decay=0.9), seed=3)
    resumed.load_state_dict(state)
    for step in range(2, 5):
        expected, found = (t.step(step_batches(step), step=step) for t in (unbroken, resumed))
        for name, loss in expected.losses.items():
            assert found.losses[name] == loss, name
    assert torch.equal(weights(resumed), weights(unbroken))


def tiny_model_with_dropout():
    model = tiny_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return model


def test_a_step_that_is_not_finite_stops_the_run_with_its_number():
    with pytest.raises(
        FloatingPointError, match=r"step 8: the gradient must be finite.*non_finite"
    ):
        trainer().step([with_nan(step_batches(0)[0])], step=7)


def test_a_step_that_is_not_finite_can_be_left_out_and_changes_nothing():
    skipping = trainer(non_finite="skip", average_decay=0.5)
    skipping.step(step_batches(0), step=0)
    before, moments = weights(skipping).clone(), copy.deepcopy(skipping.optimiser.state_dict())
    result = skipping.step([with_nan(step_batches(1)[0])], step=1)
    assert not result.was_taken
    assert skipping.num_left_out == 1
    assert torch.equal(weights(skipping), before)
    assert str(skipping.optimiser.state_dict()["state"]) == str(moments["state"])
    assert skipping.step(step_batches(2), step=2).was_taken


def test_the_average_follows_the_weights_and_is_what_is_delivered():
    averaging = trainer(average_decay=0.9)
    averaging.step(step_batches(0), step=0)
    # The first step counts for 9/10.
    start = torch.cat([p.detach().flatten() for p in tiny_model().parameters()])
    learnt = torch.cat([p.detach().flatten() for p in averaging.model.parameters()])
    torch.testing.assert_close(weights(averaging), start.lerp(learnt, 0.9))
    assert not averaging.delivered.training


def test_the_gradient_of_the_whole_model_is_cut_to_its_bound_and_told_before():
    free, bound = trainer(clip_norm=None), trainer(clip_norm=0.01)
    grads = []
    for each in (free, bound):
        each.optimiser.register_step_pre_hook(
            lambda optimiser, *_: grads.append(
                torch.cat([p.grad.flatten() for g in optimiser.param_groups for p in g["params"]])
            )
        )
    told = [each.step(step_batches(0), step=0).grad_norm for each in (free, bound)]
    assert told[0] == told[1] == pytest.approx(float(grads[0].norm()), rel=1e-5)
    assert float(grads[1].norm()) == pytest.approx(0.01, rel=1e-3)


def test_frozen_weights_stay():
    frozen = trainer(frozen_weights=("model.pixel_level_module.encoder.*",), weight_decay=0.1)
    before = copy.deepcopy(frozen.model.state_dict())
    frozen.step(step_batches(0), step=0)
    moved = {k for k, v in frozen.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert not any(".encoder." in name for name in moved)


def test_bf16_gives_about_the_losses_of_fp32():
    exact, coarse = (trainer(precision=p).step(step_batches(0), step=0) for p in ("fp32", "bf16"))
    for name, loss in exact.losses.items():
        torch.testing.assert_close(coarse.losses[name], loss, rtol=0.05, atol=0.02)


def with_batch_norm(**settings: object) -> Trainer:
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=(8, 8, 16, 16),
        depths=(1, 1, 1, 1),
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    torch.manual_seed(0)
    config = tiny_config()
    config.backbone_config = backbone
    return Trainer(
        MaskFormerForInstanceSegmentation(config), settings=_settings(**settings), seed=0
    )


def test_frozen_batch_norm_keeps_statistics_and_scale_and_what_is_as_built_does_not():
    for batch_norm, stays in (("frozen", True), ("as_built", False)):
        each = with_batch_norm(batch_norm=batch_norm, weight_decay=0.0)
        [norm, *_] = [m for m in each.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        before = copy.deepcopy(norm.state_dict())
        each.step(step_batches(0), step=0)
        for name in ("running_mean", "running_var", "weight"):
            assert torch.equal(norm.state_dict()[name], before[name]) == stays, (batch_norm, name)


def test_batch_norm_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="synchronised needs GPUs"):
        with_batch_norm(batch_norm="synchronised")
    with pytest.raises(ValueError, match="frozen has no effect on a model without"):
        trainer(batch_norm="frozen")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and losses by torch's operations, as a GPU computes them."""

    def product(embeddings: torch.Tensor, projected: Projected) -> torch.Tensor:
        return torch.einsum("blqc,bchw->blqhw", embeddings, projected.features)

    monkeypatch.setattr(model, "mask_product", product)
    monkeypatch.setattr(pieces, "runs_in_loops", lambda logits: False)
    monkeypatch.setattr(pieces, "values_at_once", lambda device, *, on_cpu: pieces.ON_A_GPU)


def behind(each: Trainer) -> Trainer:
    """A trainer whose norms arrive a step later, as from a GPU."""
    each._last_norm.is_immediate = False
    return each


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_a_step_reads_from_the_device_for_its_matches_alone(average_decay: float | None):
    each = behind(trainer(average_decay=average_decay))
    each.step(step_batches(0), step=0)
    found = reads(lambda: each.step(step_batches(1), step=1))
    assert [place.split(":")[0] for place in found] == ["matcher.py"]


def test_a_step_that_is_not_finite_is_told_by_the_next_where_norms_arrive_late():
    raising = behind(trainer())
    result = raising.step([with_nan(step_batches(0)[0])], step=7)
    assert not result.was_taken
    with pytest.raises(FloatingPointError, match=r"step 8: the gradient must be finite"):
        raising.step(step_batches(1), step=8)


def test_steps_left_out_are_counted_and_change_nothing_where_norms_arrive_late():
    skipping = behind(trainer(non_finite="skip", average_decay=0.5))
    skipping.step(step_batches(0), step=0)
    before = weights(skipping).clone()
    skipping.step([with_nan(step_batches(1)[0])], step=1)
    assert torch.equal(weights(skipping), before)
    skipping.settle()
    assert skipping.num_left_out == 1
    skipping.step(step_batches(2), step=2)
    skipping.settle()
    assert skipping.num_left_out == 1
    assert not torch.equal(weights(skipping), before)


def test_a_state_of_an_optimiser_of_another_form_still_leaves_steps_out():
    first = trainer(non_finite="skip")
    first.step(step_batches(0), step=0)
    state = copy.deepcopy(first.state_dict())
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = None  # as saved by earlier versions
    resumed = Trainer(first.model, settings=_settings(non_finite="skip"), seed=3)
    resumed.load_state_dict(state)
    before = weights(resumed).clone()
    assert not resumed.step([with_nan(step_batches(1)[0])], step=1).was_taken
    assert torch.equal(weights(resumed), before)
    assert resumed.step(step_batches(2), step=2).was_taken
