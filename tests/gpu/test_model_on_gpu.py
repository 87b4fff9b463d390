"""The model on a GPU: the CPU's numbers, in any precision, and no hidden waits."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_tiny
from torch import nn
from waits import no_hidden_waits, waits

from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    ResNetConfig,
)
from pipeline.labelling.segmenting import compiled_model
from pipeline.labelling.segmenting.compiled_model import CodeCache, CompiledModel, logits_of
from pipeline.labelling.segmenting.model_loading import load_model
from pipeline.labelling.settings import SegmentSettings
from pipeline.storage import Storage

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES = [(64, 96), (100, 132), (33, 47)]


def _resnet() -> MaskFormerForInstanceSegmentation:
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=(8, 16, 16, 32),
        depths=(1, 1, 1, 1),
        layer_type="bottleneck",
        out_features=STAGES,
    )
    return make_tiny(backbone_config=config)


MODELS = {
    "swin": make_tiny,
    "resnet": _resnet,
}


@pytest.fixture(scope="module", params=["swin", "resnet"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MaskFormerForInstanceSegmentation, MaskFormerForInstanceSegmentation]:
    """Loads a model on the CPU, and on the GPU as a run loads it."""
    model = MODELS[request.param]()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    MaskFormerImageProcessor().save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    on_gpu, _ = load_model(files, settings=SegmentSettings(precision="fp32"))
    return model, on_gpu


def pixels(size: tuple[int, int], *, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
def test_every_output_is_that_of_the_cpu(models, size):
    on_cpu, on_gpu = models
    with torch.inference_mode():
        expected = on_cpu(pixels(size), output_hidden_states=True, output_auxiliary_logits=True)
        found = on_gpu(
            pixels(size).to(GPU), output_hidden_states=True, output_auxiliary_logits=True
        )
    for name in ("class_queries_logits", "masks_queries_logits", "pixel_decoder_last_hidden_state"):
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found.auxiliary_logits, expected.auxiliary_logits, strict=True):
        for name, logits in theirs.items():
            torch.testing.assert_close(ours[name].cpu(), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_bits_give_nearly_the_same(models, dtype):
    _, model = models
    inputs = pixels((64, 96)).to(GPU)
    with torch.inference_mode():
        expected = model(inputs)
        with torch.autocast("cuda", dtype):
            under_autocast = model(inputs)
        of_half = copy.deepcopy(model).to(dtype)(inputs.to(dtype))
    for found in (under_autocast, of_half):
        for name in ("class_queries_logits", "masks_queries_logits"):
            error = (found[name].float() - expected[name]).norm() / expected[name].norm()
            assert error < 0.05, name


def test_the_host_waits_for_nothing_in_a_forward_pass(models):
    _, model = models
    inputs = pixels((64, 96)).to(GPU)
    with torch.inference_mode():
        assert waits(lambda: model(inputs)) == []


def test_masks_of_kept_queries_are_those_of_the_whole(models):
    _, model = models
    inputs = pixels((64, 96)).to(GPU)
    kept = [torch.tensor([1, 4, 7]), torch.tensor([], dtype=torch.long)]
    with torch.inference_mode():
        whole = model(inputs)
        decoding = model.decode_queries(inputs)
        for index, masks in enumerate(model.kept_masks(decoding, kept)):
            expected = whole.masks_queries_logits[index, kept[index].to(GPU)]
            torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
        assert waits(lambda: model.kept_masks(decoding, kept)) == []


COMPILED = """
import torch
from tiny import make_tiny

model = make_tiny().to("cuda")
pixels = torch.randn(2, 3, 64, 96, device="cuda")
with torch.no_grad():
    expected = model(pixels, return_dict=False)[:2]
    found = torch.compile(model, fullgraph=True)(pixels, return_dict=False)[:2]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
"""


def test_compiled_it_gives_the_same():
    """Runs in a process of its own, where shapes of calls are not checked."""
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "maskformer")])
    others = os.environ.get("PYTHONPATH")
    path = f"{folders}{os.pathsep}{others}" if others else folders
    subprocess.run(
        [sys.executable, "-c", COMPILED], check=True, env={**os.environ, "PYTHONPATH": path}
    )


def test_it_learns_in_half_the_bits_with_drop_path_and_frozen_norms():
    model = _resnet().to(GPU).train()
    with torch.autocast("cuda", torch.bfloat16):
        outputs = model(pixels((64, 96)).to(GPU))
    (outputs.masks_queries_logits.square().mean() + outputs.class_queries_logits.mean()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 50
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_windows_of_a_new_shape_are_planned_without_a_wait():
    encoder = make_tiny().model.pixel_level_module.encoder.to(GPU)
    inputs = [pixels(size).to(GPU) for size in [(64, 96), (72, 104), (80, 56)]]
    with torch.inference_mode():
        encoder(inputs[0])  # constants that all shapes share
        with no_hidden_waits():
            for values in inputs:
                encoder(values)


def test_a_compiled_model_gives_nearly_the_same_and_keeps_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_model, "COMMON_IMAGES", 1)
    monkeypatch.setattr(compiled_model, "CHUNK", 2)
    model, values = make_tiny().to(GPU), pixels((64, 96), batch=5).to(GPU)
    cache = CodeCache.of(str(tmp_path), storage=Storage(), config=b"{}", precision="fp32")
    with torch.inference_mode():
        found, expected = CompiledModel(model, cache=cache)(values), logits_of(model, values)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert cache.load((64, 96))
