"""Convolutions outside the backbone, initialised as the published code does."""

from torch import nn


def xavier_convolution(width_in: int, width_out: int, *, size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size of its map, with what Caffe2 calls Xavier's weights.

    Their bound counts what comes in alone, and is wider than PyTorch's own default.
    """
    convolution = nn.Conv2d(width_in, width_out, size, padding=size // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
