"""The pixel decoder: feature maps of four strides to one of features per pixel at a quarter size.

A feature pyramid: the coarsest map is widened and added to the next finer one, and so on up. In the
panoptic ResNets a transformer encoder (`pixel_encoder.py`) sees the coarsest map first. `model.py`
projects the last features to the masks' channels, for all queries or for those that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.configuration import MaskFormerConfig
from maskformer.network.convolutions import xavier_convolution
from maskformer.network.pixel_encoder import PixelEncoder

FeatureMap = Float[Tensor, "batch _ _ _"]

_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The output of the pixel decoder before its projection."""

    features: list[FeatureMap]
    """One for each map of the backbone but the coarsest, finest last."""
    encoded: FeatureMap | None
    """What the encoder made of the coarsest map, where there is an encoder."""


class PixelDecoder(nn.Module):
    """The pyramid and the projection that ends it. The two are run apart; see `pyramid`."""

    def __init__(self, *, channels: Sequence[int], config: MaskFormerConfig) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(
                f"the pixel decoder needs two maps of the backbone or more, got {len(channels)}; "
                "list them in backbone_config's out_features or out_indices"
            )
        width = config.fpn_feature_size
        self.encoder = (
            PixelEncoder(in_channels=channels[-1], width=width, config=config.decoder_config)
            if config.has_pixel_encoder
            else None
        )
        coarsest = width if config.has_pixel_encoder else channels[-1]
        self.fpn = FeaturePyramid(channels=[*channels[:-1], coarsest], feature_size=width)
        self.mask_projection = xavier_convolution(width, config.mask_feature_size, size=3)

    def forward(self, maps: list[FeatureMap]) -> FeatureMap:
        return self.mask_projection(self.pyramid(maps).features[-1])

    def pyramid(self, maps: list[FeatureMap]) -> Pyramid:
        """Builds the pyramid from the backbone's maps, finest first."""
        if self.encoder is None:
            return Pyramid(features=self.fpn(maps), encoded=None)
        encoded = self.encoder(maps[-1])
        return Pyramid(features=self.fpn([*maps[:-1], encoded]), encoded=encoded)


class FeaturePyramid(nn.Module):
    """Turns maps, finest first, into features of one width, finest last."""

    def __init__(self, *, channels: list[int], feature_size: int) -> None:
        super().__init__()
        self.stem = _convolution(channels[-1], feature_size, size=3, relu=True)
        self.layers = nn.ModuleList(
            _Level(width, feature_size) for width in reversed(channels[:-1])
        )

    def forward(self, maps: list[FeatureMap]) -> list[FeatureMap]:
        """Returns a feature map for each map but the coarsest."""
        features = [self.stem(maps[-1])]
        for level, finer in zip(self.layers, reversed(maps[:-1]), strict=True):
            features.append(level(features[-1], finer))
        return features[1:]


class _Level(nn.Module):
    def __init__(self, width: int, feature_size: int) -> None:
        super().__init__()
        self.proj = _convolution(width, feature_size, size=1, relu=False)
        self.block = _convolution(feature_size, feature_size, size=3, relu=True)

    def forward(self, coarse: FeatureMap, finer: FeatureMap) -> FeatureMap:
        lateral = self.proj(finer)
        upsampled = functional.interpolate(coarse, size=lateral.shape[-2:], mode="nearest")
        return self.block(upsampled + lateral)


def _convolution(width_in: int, width_out: int, *, size: int, relu: bool) -> nn.Sequential:
    if width_out % _GROUPS:
        raise ValueError(f"fpn_feature_size must be a multiple of {_GROUPS}, got {width_out}")
    return nn.Sequential(
        xavier_convolution(width_in, width_out, size=size, bias=False),
        nn.GroupNorm(_GROUPS, width_out),
        *([nn.ReLU()] if relu else []),
    )
