"""The model outside of Python: as a compiled graph, an exported program and an ONNX graph.

In a process of their own, without the shape checks of the test session, which nothing can trace.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The logits are the first two of the tuple that return_dict=False gives.
BEGIN = """
import sys, torch
from tiny import make_tiny
from maskformer import (
    MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig, TimmBackboneConfig
)
torch.manual_seed(0)
tiny = make_tiny().config
if sys.argv[1] == "resnet":
    tiny.backbone_config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=(16, 32, 32, 64),
        depths=(1, 1, 1, 1),
        out_indices=[1, 2, 3, 4],
    )
elif sys.argv[1] == "timm":
    tiny.backbone_config = TimmBackboneConfig(
        backbone="tf_efficientnet_lite0", out_indices=[1, 2, 3]
    )
model = MaskFormerForInstanceSegmentation(tiny).eval()
inputs = [torch.randn(1, 3, *size) for size in ((64, 96), (50, 70))]

def expected(pixels):
    with torch.no_grad():
        return model(pixels, return_dict=False)[:2]
"""

ONE_SIZE = "inputs = inputs[1:]\n"

COMPILED = """
from maskformer.network import window_attention
window_attention._MOST_WINDOWS = 20  # compiled code takes pieces too
compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
queries = torch.compile(model.decode_queries, fullgraph=True, backend="eager", dynamic=False)
for pixels in inputs:
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(pixels, return_dict=False)[:2], expected(pixels), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            queries(pixels).mask_embeddings, model.decode_queries(pixels).mask_embeddings
        )
"""

EXPORTED = """
for pixels in inputs:
    program = torch.export.export(model, (pixels,), {"return_dict": False})
    other = torch.randn_like(pixels)
    found = program.module()(other, return_dict=False)[:2]
    torch.testing.assert_close(found, expected(other), atol=1e-5, rtol=1e-4)
"""

GRAPH = """
from maskformer import OnnxModel
from maskformer.export.onnx_graph import export_graph
graph = export_graph(model)
exported = OnnxModel(graph, config=model.config, num_threads=1)
for size in ((32, 32), (96, 160), (288, 64)):
    pixels = torch.randn(2, 3, *size)
    decoding = exported.decode_queries(pixels)
    found = decoding.class_queries_logits, exported.all_masks(decoding)
    torch.testing.assert_close(found, expected(pixels), atol=1e-3, rtol=1e-3)
    alone = exported.decode_queries(pixels[1:])
    assert torch.equal(alone.pixel_features, decoding.pixel_features[1:])
"""


# A process for each: what it starts with takes as long as a program. The sample model's graph is
# exported for `test_engines.py`; what other backbones add are their operators.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("backbone", "program"),
    [
        pytest.param("swin", COMPILED, id="compiled", marks=pytest.mark.faults),
        pytest.param("swin", ONE_SIZE + EXPORTED, id="exported"),
        pytest.param("swin", GRAPH, id="Swin in onnxruntime", marks=pytest.mark.faults),
        pytest.param("resnet", GRAPH, id="ResNet in onnxruntime", marks=pytest.mark.faults),
        pytest.param("timm", GRAPH, id="TensorFlow's padding", marks=pytest.mark.faults),
    ],
)
def test_the_logits_are_the_same_outside_of_python(backbone: str, program: str) -> None:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[1]), str(here)])
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, backbone],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
