"""Backbones: pixels to feature maps, finest first.

Takes a backbone's configuration and gives a module with `channels` and a forward from normalised
images to maps. Swin is our own (`swin.py`), ResNet has transformers' names, everything else comes
from timm. `pixel_decoder.py` takes the maps. No weights are fetched here.
"""

from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskformer.activations import activation
from maskformer.configuration import (
    BackboneConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
    TimmBackboneConfig,
)
from maskformer.swin import SwinBackbone

Pixels = Float[Tensor, "batch colours height width"]
FeatureMaps = list[Float[Tensor, "batch _ _ _"]]


@runtime_checkable
class Backbone(Protocol):
    """What `build_backbone` gives, besides being a module."""

    channels: list[int]

    def __call__(self, pixel_values: Pixels) -> FeatureMaps: ...


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone with fresh weights."""
    if isinstance(config, MaskFormerSwinConfig):
        return SwinBackbone(config)
    if isinstance(config, ResNetConfig):
        return ResNetBackbone(config)
    return TimmBackbone(config)


class ResNetBackbone(nn.Module):
    """ResNet with batch norm."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = _Stem(config)
        self.encoder = _Stages(config)
        widths = [config.embedding_size, *config.hidden_sizes]
        self.maps_out = list(config.out_indices or ())
        self.channels = [widths[index] for index in self.maps_out]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Pixels) -> FeatureMaps:
        maps = [self.embedder(_laid_out(pixel_values))]
        for stage in self.encoder.stages:
            maps.append(stage(maps[-1]))
        return [maps[index] for index in self.maps_out]


class _Stem(nn.Module):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = _Convolution(
            config.num_channels, config.embedding_size, size=7, stride=2, act=config.hidden_act
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
            _Stage(config, width_in=w_in, width_out=w_out, stride=stride, depth=depth)
            for w_in, w_out, stride, depth in zip(
                widths, widths[1:], strides, config.depths, strict=False
            )
        )


class _Stage(nn.Module):
    def __init__(
        self, config: ResNetConfig, *, width_in: int, width_out: int, stride: int, depth: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Residual(config, width_in=width_in, width_out=width_out, stride=stride),
            *(
                _Residual(config, width_in=width_out, width_out=width_out, stride=1)
                for _ in range(depth - 1)
            ),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)


class _Residual(nn.Module):
    def __init__(self, config: ResNetConfig, *, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut = (
            nn.Identity()
            if width_in == width_out and stride == 1
            else _Convolution(width_in, width_out, size=1, stride=stride)
        )
        self.layer = nn.Sequential(*_branch(config, width_in, width_out, stride))
        self.activation = activation(config.hidden_act)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.layer(maps) + self.shortcut(maps))


def _branch(
    config: ResNetConfig, width_in: int, width_out: int, stride: int
) -> list["_Convolution"]:
    # Inside a branch it is always relu: `hidden_act` is for the stem and the sums.
    if config.layer_type == "basic":
        return [
            _Convolution(width_in, width_out, size=3, stride=stride, act="relu"),
            _Convolution(width_out, width_out, size=3),
        ]
    narrow = width_out // 4
    first, second = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
    return [
        _Convolution(width_in, narrow, size=1, stride=first, act="relu"),
        _Convolution(narrow, narrow, size=3, stride=second, act="relu"),
        _Convolution(narrow, width_out, size=1),
    ]


class _Convolution(nn.Module):
    def __init__(
        self, width_in: int, width_out: int, *, size: int, stride: int = 1, act: str | None = None
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            width_in, width_out, kernel_size=size, stride=stride, padding=size // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(width_out)
        self.activation = activation(act) if act is not None else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(maps)))


class TimmBackbone(nn.Module):
    """Any timm model that gives features, under the name that transformers stores it by."""

    def __init__(self, config: TimmBackboneConfig) -> None:
        super().__init__()
        import timm

        if not config.backbone or not timm.is_model(config.backbone):
            raise ValueError(
                f"backbone_config.backbone must be the name of a timm model, got "
                f"{config.backbone!r}; timm.list_models() has them"
            )
        if not config.features_only:
            raise ValueError("backbone_config.features_only must be True: MaskFormer needs maps")
        self._backbone = timm.create_model(
            config.backbone,
            pretrained=False,
            features_only=True,
            in_chans=config.num_channels,
            out_indices=tuple(config.out_indices or ()),
            **({"output_stride": config.output_stride} if config.output_stride else {}),
        )
        if config.freeze_batch_norm_2d:
            self._backbone = timm.utils.model.freeze_batch_norm_2d(self._backbone)
        self.channels = cast("list[int]", self._backbone.feature_info.channels())

    def forward(self, pixel_values: Pixels) -> FeatureMaps:
        return list(self._backbone(_laid_out(pixel_values)))


def _laid_out(pixel_values: Pixels) -> Pixels:
    # In half precision convolutions are up to four times faster with channels last. In float32 they
    # are not, and planes keep the order in which other codes add.
    if pixel_values.dtype == torch.float32 and not torch.is_autocast_enabled(
        pixel_values.device.type
    ):
        return pixel_values
    return pixel_values.contiguous(memory_format=torch.channels_last)
