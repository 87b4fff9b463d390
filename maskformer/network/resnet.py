"""ResNet: pixels to feature maps by convolutions, under transformers' names.

Takes normalised images, gives the maps that its configuration asks for, finest first. Of DeepLab's
variant there is the stem of three convolutions and the dilation of stages and blocks. Batch norm
learns, as in transformers, or is frozen, as in the published models.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.configuration import DeepLabResNetConfig, ResNetConfig
from maskformer.network.activations import activation
from maskformer.network.recomputing import recomputed

Pixels = Float[Tensor, "batch colours height width"]
FeatureMaps = list[Float[Tensor, "batch _ _ _"]]


class ResNetBackbone(nn.Module):
    """ResNet, plain or DeepLab's."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        deeplab = isinstance(config, DeepLabResNetConfig)
        self.embedder = _DeepLabStem(config) if deeplab else _Stem(config)
        self.encoder = _Stages(config)
        widths = [config.embedding_size, *config.hidden_sizes]
        self.maps_out = list(config.out_indices or ())
        self.channels = [widths[index] for index in self.maps_out]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Pixels) -> FeatureMaps:
        maps = [self.embedder(laid_out(pixel_values))]
        for stage in self.encoder.stages:
            maps.append(stage(maps[-1]))
        return [maps[index] for index in self.maps_out]

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        for stage in self.modules():
            if isinstance(stage, _Stage):
                stage.recompute = enabled

    def stages(self) -> list[nn.Module]:
        return [self.embedder, *self.encoder.stages]


class _Stem(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = _Convolution(
            config.num_channels,
            config.embedding_size,
            size=7,
            stride=2,
            act=config.hidden_act,
            frozen=config.frozen_batch_norm,
        )
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: Pixels) -> Tensor:
        return self.pooler(self.embedder(pixel_values))


class _DeepLabStem(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        narrow, wide = config.embedding_size // 2, config.embedding_size
        widths = [config.num_channels, narrow, narrow, wide]
        self.embedder = nn.Sequential(
            *(
                _Convolution(
                    width_in,
                    width_out,
                    size=3,
                    stride=stride,
                    act=config.hidden_act,
                    frozen=config.frozen_batch_norm,
                )
                for width_in, width_out, stride in zip(widths, widths[1:], (2, 1, 1), strict=False)
            )
        )
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: Pixels) -> Tensor:
        return self.pooler(self.embedder(pixel_values))


class _Stages(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = [config.embedding_size, *config.hidden_sizes]
        strides = [2 if config.downsample_in_first_stage else 1, *[2] * (len(config.depths) - 1)]
        self.stages = nn.ModuleList(
            _Stage(
                config,
                width_in=width_in,
                width_out=width_out,
                # A dilated stage sees as far without making its map smaller.
                stride=1 if dilations[0] > 1 else stride,
                dilations=dilations,
            )
            for width_in, width_out, stride, dilations in zip(
                widths, widths[1:], strides, _dilations(config), strict=False
            )
        )


def _dilations(config: ResNetConfig) -> list[list[int]]:
    """Returns the dilation of each block of each stage."""
    if not isinstance(config, DeepLabResNetConfig):
        return [[1] * depth for depth in config.depths]
    stages = [[d] * n for d, n in zip(config.dilations, config.depths, strict=True)]
    return [*stages[:-1], [config.dilations[-1] * grid for grid in config.multi_grid]]


class _Stage(nn.Module):
    def __init__(
        self,
        config: ResNetConfig,
        *,
        width_in: int,
        width_out: int,
        stride: int,
        dilations: list[int],
    ) -> None:
        super().__init__()
        self.recompute = False
        self.layers = nn.Sequential(
            *(
                _Residual(
                    config,
                    width_in=width_out if index else width_in,
                    width_out=width_out,
                    stride=1 if index else stride,
                    dilation=dilation,
                )
                for index, dilation in enumerate(dilations)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self.layers:
            maps = recomputed(layer, maps) if self.recompute and self.training else layer(maps)
        return maps


class _Residual(nn.Module):
    def __init__(
        self,
        config: ResNetConfig,
        *,
        width_in: int,
        width_out: int,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        frozen = config.frozen_batch_norm
        self.shortcut = (
            nn.Identity()
            if width_in == width_out and stride == 1
            else _Convolution(width_in, width_out, size=1, stride=stride, frozen=frozen)
        )
        self.layer = nn.Sequential(
            *(
                _Convolution(**part, frozen=frozen)
                for part in _branch(config, width_in, width_out, stride, dilation)
            )
        )
        self.activation = activation(config.hidden_act)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.layer(maps) + self.shortcut(maps))


def _branch(
    config: ResNetConfig, width_in: int, width_out: int, stride: int, dilation: int
) -> list[dict[str, Any]]:
    """Returns the arguments of each convolution of a branch."""
    # Inside a branch it is always relu: `hidden_act` is for the stem and the sums.
    if config.layer_type == "basic":
        wide = {"width_out": width_out, "size": 3, "dilation": dilation}
        return [
            {"width_in": width_in, "stride": stride, "act": "relu", **wide},
            {"width_in": width_out, **wide},
        ]
    narrow = width_out // 4
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return [
        {"width_in": width_in, "width_out": narrow, "size": 1, "stride": first, "act": "relu"},
        {
            "width_in": narrow,
            "width_out": narrow,
            "size": 3,
            "stride": second,
            "dilation": dilation,
            "act": "relu",
        },
        {"width_in": narrow, "width_out": width_out, "size": 1},
    ]


class _Convolution(nn.Module):
    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        size: int,
        stride: int = 1,
        dilation: int = 1,
        act: str | None = None,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            width_in,
            width_out,
            kernel_size=size,
            stride=stride,
            padding=size // 2 * dilation,
            dilation=dilation,
            bias=False,
        )
        self.normalization = FrozenBatchNorm(width_out) if frozen else nn.BatchNorm2d(width_out)
        self.activation = activation(act) if act is not None else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(maps)))


class FrozenBatchNorm(nn.Module):
    """Batch norm whose tensors are all constants, under the names of one that learns."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        # It counts nothing here; other readers of a checkpoint expect it.
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False
        )


def laid_out(pixel_values: Pixels) -> Pixels:
    # In half precision convolutions are up to four times faster with channels last. In float32 they
    # are not, and planes keep the order in which other codes add.
    kind = pixel_values.device.type
    # The meta device, on which shapes are checked, has no autocast to ask about.
    is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if pixel_values.dtype == torch.float32 and not is_cast:
        return pixel_values
    return pixel_values.contiguous(memory_format=torch.channels_last)
