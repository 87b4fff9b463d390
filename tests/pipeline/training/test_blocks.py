"""Training with blocks compiled one by one, or computed twice: the steps of plain training."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import drawn_batch, tiny_config, tiny_model
from torch import nn

from maskformer import MaskFormerForInstanceSegmentation, ResNetConfig, TimmBackboneConfig
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings, check_device

TESTS = Path(__file__).parents[2]

# In a process of its own, without the checks of shapes that tests add to each function.
COMPILED = f"""
import copy, sys
sys.path[:0] = {[str(TESTS.parent), str(TESTS), str(Path(__file__).parent)]}
import torch
from tiny_training import drawn_batch, tiny_model
from pipeline.training.loop import Trainer
from pipeline.training.optimisation import OptimisationSettings

torch.compiler.set_default_backend("aot_eager")
plain, compiled = (
    Trainer(
        tiny_model(),
        settings=OptimisationSettings(
            num_steps=10, learning_rate=1e-3, average_decay=0.9, compile=compile,
            gradient_checkpointing=compile and sys.argv[1] == "twice",
        ),
        seed=3,
    )
    for compile in (False, True)
)
order = []
def note(name):
    return lambda *_: order.append(name)
def watch(encoder, _, maps):
    maps[0].register_hook(note("backbone"))
encoder = compiled.model.model.pixel_level_module.encoder
encoder.register_forward_hook(watch)
layer = compiled.model.model.transformer_module.decoder.layers[-1]
layer.fc2.weight.register_post_accumulate_grad_hook(note("decoder"))
for step in range(3):
    batch = drawn_batch([0, 1], num_masks=[3, 1], seed=step)
    expected, found = (each.step([batch], step=step) for each in (plain, compiled))
    for name, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[name], loss, rtol=1e-4, atol=1e-5)
# Other processes can average the decoder's gradients before the backbone's are there.
assert order == ["decoder", "backbone"] * 3, order
for name, weight in plain.delivered.state_dict().items():
    torch.testing.assert_close(compiled.delivered.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
copy.deepcopy(compiled.model)
print("equal")
"""


@pytest.mark.faults  # the compiler takes most of the time
@pytest.mark.parametrize("how", ["once", "twice"])
def test_compiled_blocks_take_the_steps_of_the_plain_model(how: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED, how], capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "equal", ran.stderr[-3000:]


def block_trainer(**settings: object) -> Trainer:
    values = {"num_steps": 10, "learning_rate": 1e-3, **settings}
    return Trainer(tiny_model(), settings=OptimisationSettings(**values), seed=3)


def test_blocks_that_are_computed_twice_take_the_same_steps() -> None:
    plain, twice = block_trainer(), block_trainer(gradient_checkpointing=True)
    assert twice.model.is_gradient_checkpointing
    for step in range(2):
        batch = drawn_batch([0, 1], num_masks=[3, 1], seed=step)
        expected, found = (each.step([batch], step=step) for each in (plain, twice))
        for name, loss in expected.losses.items():
            torch.testing.assert_close(found.losses[name], loss, rtol=1e-5, atol=1e-6)


def models_by_backbone() -> list[MaskFormerForInstanceSegmentation]:
    swin, resnet, timm = tiny_config(), tiny_config(), tiny_config()
    resnet.backbone_config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=(8, 8, 16, 16),
        depths=(1, 1, 1, 1),
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    timm.backbone_config = TimmBackboneConfig(backbone="resnet10t", out_indices=[1, 2, 3, 4])
    return [MaskFormerForInstanceSegmentation(config) for config in (swin, resnet, timm)]


def test_blocks_are_the_layers_of_all_backbones_and_decoders_each_once() -> None:
    for model in models_by_backbone():
        blocks = model.blocks()
        inside = [id(p) for block in blocks for p in block.parameters()]
        assert len(inside) == len(set(inside))
        assert not any(block is model for block in blocks)
        share = sum(p.numel() for block in blocks for p in block.parameters())
        backbone = sum(p.numel() for p in model.model.pixel_level_module.encoder.parameters())
        assert share > 0.95 * backbone


def test_each_block_is_compiled_and_the_model_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(module))
    each = block_trainer(compile=True)
    assert list(map(id, compiled)) == list(map(id, each.model.blocks()))


@pytest.mark.parametrize(("tf32", "expected"), [(False, "highest"), (True, "high")])
def test_float32_is_exact_unless_the_settings_say_otherwise(tf32: bool, expected: str) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    each = block_trainer(tf32=tf32)
    try:
        torch.backends.cudnn.allow_tf32 = not tf32  # as something between two steps may leave it
        each.step([drawn_batch([0], num_masks=[1])], step=0)
        assert torch.get_float32_matmul_precision() == expected
        assert torch.backends.cudnn.allow_tf32 == tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_tf32_without_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="tf32 has no effect on a cpu"):
        check_device(OptimisationSettings(tf32=True), device="cpu")
