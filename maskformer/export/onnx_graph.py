"""Exports a model's query decoding as an ONNX graph for images of any size.

    python -m maskformer.export.onnx_graph FOLDER FILE

`kept_graphs.py` runs this in a process of its own: exporting loads torch, its compiler and three
times the weights. The graph takes one image; masks are not in it, since only those of kept queries
are made, and `query_masks.py` makes them.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.configuration import TimmBackboneConfig
from maskformer.export.graph_file import GraphFiles, write_graph_file
from maskformer.export.onnx_model import BLOCK, OUTPUTS, OnnxModel
from maskformer.model import MaskFormerForInstanceSegmentation

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference of an output from torch's, as a share of the largest number in it."""

_EXPORTED_BLOCKS = (6, 8)
_CHECKED_SIZES = ((32, 64), (64, 96), (256, 352))
"""Smaller than Swin's windows at one end, some windows at the other."""
_LONGEST = 400


def export_graph(model: MaskFormerForInstanceSegmentation) -> GraphFiles:
    """Exports the model, and compares the graph with it on images of some sizes.

    Raises:
        ValueError: the model cannot be exported, or its graph computes something else.
    """
    model = model.eval().requires_grad_(False).float().cpu()
    colours = model.config.backbone_config.num_channels
    if model.config.backbone_config.model_type == TimmBackboneConfig.model_type:
        _pad_by_constants(model)
    dynamic = torch.export.Dim.DYNAMIC
    rows, columns = _EXPORTED_BLOCKS
    program = torch.onnx.export(
        _Decoding(model),
        (torch.randn(1, colours, rows, BLOCK, columns, BLOCK),),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        output_names=list(OUTPUTS),
        dynamic_shapes={"pixel_blocks": {2: dynamic, 4: dynamic}},
    )
    assert program is not None, "torch gives a program where it is to export by dynamo"
    projection = model.mask_projection
    files = GraphFiles(
        graph=program.model_proto.SerializeToString(),
        mask_projection=safetensors.torch.save(
            {"weight": projection.weight.contiguous(), "bias": projection.get_parameter("bias")}
        ),
    )
    _check(files, model=model, colours=colours)
    return files


def _pad_by_constants(model: nn.Module) -> None:
    """Replaces convolutions that work out TensorFlow's padding from the size of each input.

    The exporter finds no end where sides are rounded again at every such convolution. Strides
    divide them all, since images are whole blocks, and so the paddings are constants.
    """
    from timm.layers import Conv2dSame

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv2dSame):
            model.set_submodule(name, _PaddedConvolution(module))


class _PaddedConvolution(nn.Module):
    """A convolution with TensorFlow's padding, of inputs whose sides its stride divides."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.padding: list[int] = []
        for kernel, stride, dilation in zip(
            convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
        ):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            self.padding[:0] = [total // 2, total - total // 2]  # the last side comes first

    def forward(self, inputs: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        it = self.convolution
        padded = functional.pad(inputs, self.padding)
        return functional.conv2d(padded, it.weight, it.bias, it.stride, 0, it.dilation, it.groups)


class _Decoding(nn.Module):
    """The part of a model that is exported.

    Pixels come in blocks, so that the exporter reasons of sides that are products: with sides of
    which it knows nothing it takes minutes over Swin's windows, and more for each stage.
    """

    def __init__(self, model: MaskFormerForInstanceSegmentation) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_blocks: Float[Tensor, "1 colours _ _ _ _"]) -> tuple[Tensor, ...]:
        decoding = self.model.decode_queries(pixel_blocks.flatten(4, 5).flatten(2, 3))
        return tuple(getattr(decoding, name) for name in OUTPUTS)


def _check(files: GraphFiles, *, model: MaskFormerForInstanceSegmentation, colours: int) -> None:
    exported = OnnxModel(files, config=model.config, num_threads=torch.get_num_threads())
    for size in _CHECKED_SIZES:
        pixels = torch.randn(1, colours, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found, wanted = exported.decode_queries(pixels), model.decode_queries(pixels)
        for name in OUTPUTS:
            ours, theirs = getattr(found, name).numpy(), getattr(wanted, name).numpy()
            difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the {name} of its ONNX graph must be torch's up to {TOLERANCE:g} of the "
                    f"largest, and differ by {difference:.1g} at {size[0]} x {size[1]} pixels"
                )


def main(folder: str, file: str) -> int:
    """Writes the graph of a model folder. Exit codes: 0 done, 2 not exported, in one line."""
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        model = MaskFormerForInstanceSegmentation.from_pretrained(folder, dtype=torch.float32)
        write_graph_file(Path(file), export_graph(model))
    except Exception as error:  # the exporter's errors are of many classes, and end in one line
        print(" ".join(str(error).split())[:_LONGEST], file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
