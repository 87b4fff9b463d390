"""Backbones: pixels to feature maps, finest first.

Takes a backbone's configuration and gives a module with `channels` and a forward from normalised
images to maps. Swin (`swin.py`) and ResNet (`resnet.py`) are our own, everything else comes from
timm. `pixel_decoder.py` takes the maps. No weights are fetched here.
"""

from typing import Protocol, cast, runtime_checkable

from torch import nn

from maskformer.configuration import (
    BackboneConfig,
    MaskFormerSwinConfig,
    ResNetConfig,
    TimmBackboneConfig,
)
from maskformer.network.resnet import FeatureMaps, Pixels, ResNetBackbone, laid_out
from maskformer.network.swin import SwinBackbone


@runtime_checkable
class Backbone(Protocol):
    """The interface of a backbone, besides being a module."""

    channels: list[int]

    def __call__(self, pixel_values: Pixels) -> FeatureMaps: ...

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Makes training compute the inside of each block twice, and keep none of it."""

    def stages(self) -> list[nn.Module]:
        """Returns the parts that run one after another, and that can be compiled one by one."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone with fresh weights."""
    if isinstance(config, MaskFormerSwinConfig):
        return SwinBackbone(config)
    if isinstance(config, ResNetConfig):
        return ResNetBackbone(config)
    return TimmBackbone(config)


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
        return list(self._backbone(laid_out(pixel_values)))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        self._backbone.set_grad_checkpointing(enabled)

    def stages(self) -> list[nn.Module]:
        return [self._backbone]
