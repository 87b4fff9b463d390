"""The loss on a GPU: the CPU's numbers and gradients, one wait a step, and a group of NCCL."""

import copy
import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from tiny_training import drawn_batch, tiny_model
from waits import waits

from maskformer import (
    IdMap,
    MaskFormerForInstanceSegmentation,
    MaskRuns,
    encode_mask,
    rle_runs,
    step_normalisers,
)
from maskformer.criterion.targets import expand_masks
from pipeline.labelling.segmenting.model_loading import (
    float32_precision_kept,
    set_float32_precision,
)
from pipeline.training.batches import Batch
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Training leaves TF32 to torch, which has it in convolutions; the CPU has all digits."""
    with float32_precision_kept():
        set_float32_precision("fp32")
        yield


def batch(device: torch.device | str = "cpu") -> Batch:
    return drawn_batch([0, 1, 2, 3], num_masks=[3, 0, 1, 12]).to(device)  # more than queries too


def losses_of(model: MaskFormerForInstanceSegmentation, batch: Batch) -> dict[str, torch.Tensor]:
    outputs = model(batch.pixel_values, output_auxiliary_logits=True)
    return model.get_loss_dict(
        outputs.masks_queries_logits,
        outputs.class_queries_logits,
        batch.mask_labels,
        batch.class_labels,
        outputs.auxiliary_logits,
        valid=batch.valid,
    )


def losses_and_gradients(
    model: MaskFormerForInstanceSegmentation, batch: Batch
) -> tuple[dict[str, float], torch.Tensor]:
    losses = losses_of(model, batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = torch.cat(
        [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    )
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("with_valid", [False, True])
def test_losses_and_gradients_are_those_of_the_cpu(with_valid):
    results = []
    for device in (torch.device("cpu"), GPU):
        model = tiny_model().to(device).train()
        inputs = batch()
        if with_valid:
            planes = [torch.arange(64 * 64).view(64, 64) % 7 > 0] * len(inputs)
            inputs = dataclasses.replace(inputs, valid=planes)
        results.append(losses_and_gradients(model, inputs.to(device)))
    (expected, on_cpu), (found, on_gpu) = results
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (on_gpu - on_cpu).norm() / on_cpu.norm() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite_under_autocast(dtype):
    model, inputs = tiny_model().to(GPU), batch(GPU)
    for sign in (-1e4, 1e4):
        masks = torch.full((4, 8, 16, 16), sign, device=GPU, dtype=dtype, requires_grad=True)
        classes = torch.full((4, 8, 5), sign, device=GPU, dtype=dtype, requires_grad=True)
        with torch.autocast("cuda", dtype):
            losses = model.criterion(masks, classes, inputs.mask_labels, inputs.class_labels)
        sum(losses.values()).backward()
        assert all(math.isfinite(float(loss)) for loss in losses.values())
        assert bool(masks.grad.isfinite().all() and classes.grad.isfinite().all())


def test_a_loss_waits_once_for_all_layers_and_images():
    model, inputs = tiny_model().to(GPU).train(), batch(GPU)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            losses = losses_of(model, inputs)
        torch.stack(list(losses.values())).sum().backward()

    assert len(waits(step)) == 1


def as_runs(masks: IdMap) -> MaskRuns:
    """Returns the same masks in the form of objects that overlap."""
    _, height, width = masks.shape
    size = {"height": height, "width": width}
    return MaskRuns.of(
        [rle_runs(encode_mask(mask), **size) for mask in expand_masks(masks).numpy()],
        rows=torch.arange(height),
        columns=torch.arange(width),
        image_height=height,
    )


def test_runs_have_the_losses_of_their_masks_and_wait_no_more():
    model, on_cpu = tiny_model().to(GPU).train(), batch()
    runs = dataclasses.replace(on_cpu, mask_labels=[as_runs(m) for m in on_cpu.mask_labels])
    (expected, by_map), (found, by_runs) = (
        losses_and_gradients(copy.deepcopy(model), inputs.to(GPU)) for inputs in (on_cpu, runs)
    )
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (by_runs - by_map).norm() / by_map.norm() < 1e-4
    inputs = runs.to(GPU)

    def step() -> None:
        torch.stack(list(losses_of(model, inputs).values())).sum().backward()

    assert len(waits(step)) == 1


def trainer(device: torch.device, **settings: object) -> Trainer:
    values = {"num_steps": 100, "learning_rate": 1e-3, **settings}
    return Trainer(tiny_model().to(device), settings=OptimisationSettings(**values), seed=3)


def test_steps_lead_where_those_of_the_cpu_lead():
    cpu, gpu = trainer(torch.device("cpu")), trainer(GPU)
    for step in range(3):
        theirs = cpu.step([batch()], step=step)
        ours = gpu.step([batch(GPU)], step=step)
        for name, loss in theirs.losses.items():
            assert float(ours.losses[name]) == pytest.approx(float(loss), rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("settings", [{}, {"average_decay": 0.9}, {"precision": "fp16"}])
def test_a_step_waits_for_its_matches_alone(settings):
    gpu, inputs = trainer(GPU, **{"precision": "bf16", **settings}), [batch(GPU)]
    assert len(waits(lambda: gpu.step(inputs, step=0))) == 1


def test_a_step_that_is_not_finite_is_told_by_the_next_or_when_asked():
    gpu, good, bad = trainer(GPU), batch(GPU), batch(GPU)
    bad.pixel_values[0, 0, 0, 0] = math.nan
    assert not gpu.step([bad], step=7).was_taken
    with pytest.raises(FloatingPointError, match="step 8: the gradient must be finite"):
        gpu.step([good], step=8)
    gpu.step([bad], step=9)
    with pytest.raises(FloatingPointError, match="step 10: the gradient must be finite"):
        gpu.settle()


def test_in_fp16_the_scale_halves_until_the_losses_fit():
    gpu = trainer(GPU, precision="fp16")
    gpu.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    before = copy.deepcopy(gpu.model.state_dict())
    taken = [gpu.step([batch(GPU)], step=step).was_taken for step in range(30)]
    assert not taken[0]
    assert taken[-1]
    assert gpu.num_left_out == taken.index(True)
    assert any(not torch.equal(v, before[k]) for k, v in gpu.model.state_dict().items())


def test_normalisers_come_through_nccl(tmp_path):
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        labels = batch(GPU).class_labels
        normalisers = step_normalisers([labels], num_queries=8, eos_coef=0.1, device=GPU)
        assert float(normalisers.num_masks) == 16
        waiting = waits(lambda: step_normalisers([labels], num_queries=8, eos_coef=0.1, device=GPU))
        assert waiting == []
    finally:
        dist.destroy_process_group()
