"""Convolutions: those of `nn.Conv2d`, by Winograd's method where that is faster."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.cpu import winograd

Maps = Float[Tensor, "batch _ _ _"]


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, faster on CPUs; see `winograd.py`."""

    def forward(self, input: Maps) -> Maps:  # nn.Conv2d's name for it
        if self._keeps_size and winograd.suits(input, self.weight):
            return winograd.convolution(input, self.weight, self.bias)
        return super().forward(input)

    @property
    def _keeps_size(self) -> bool:
        return (
            self.stride == self.dilation == self.padding == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )


def convolution_of_same_size(
    maps: Maps,
    kernels: Float[Tensor, "channels_out channels_in size size"],
    bias: Float[Tensor, " channels_out"],
) -> Maps:
    """`torch.nn.functional.conv2d` by kernels of an odd size, with half of it as padding."""
    if winograd.suits(maps, kernels):
        return winograd.convolution(maps, kernels, bias)
    return functional.conv2d(maps, kernels, bias, padding=kernels.shape[2] // 2)


def xavier_convolution(
    width_in: int, width_out: int, *, size: int, bias: bool = True
) -> Convolution:
    """A convolution that keeps the size of its map, with what Caffe2 calls Xavier's weights.

    Their bound counts what comes in alone, and is wider than PyTorch's own default.
    """
    convolution = Convolution(width_in, width_out, size, padding=size // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
