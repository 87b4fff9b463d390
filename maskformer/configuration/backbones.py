"""Configurations of backbones: Swin, ResNet plain and DeepLab's, and everything of timm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskformer.configuration.base import PretrainedConfig

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")


@dataclass(init=False)
class _BackboneConfig(PretrainedConfig):
    """A backbone with named stages: `out_features` and `out_indices` say which of them come out."""

    out_features: Sequence[str] | None = None
    out_indices: Sequence[int] | None = None
    stage_names: Sequence[str] | None = None

    def _align_stages(self, *, depths: Sequence[int]) -> None:
        """Makes names, indices and stages agree; the last stage comes out where nothing is said."""
        names = ["stem", *(f"stage{number}" for number in range(1, len(depths) + 1))]
        self.stage_names = names
        if self.out_features is None:
            indices = [-1] if self.out_indices is None else list(self.out_indices)
            if not all(-len(names) <= index < len(names) for index in indices):
                raise ValueError(
                    f"out_indices must be positions in {names}, got {indices} "
                    f"for a backbone of model_type {self.model_type!r}"
                )
            self.out_features = [names[index] for index in indices]
        self.out_features = list(self.out_features)
        if self.out_features != [name for name in names if name in self.out_features]:
            raise ValueError(
                f"out_features must be some of {names}, in this order and once each, got "
                f"{self.out_features} for a backbone of model_type {self.model_type!r}"
            )
        self.out_indices = [names.index(name) for name in self.out_features]


@dataclass(init=False)
class MaskFormerSwinConfig(_BackboneConfig):
    """The Swin backbone as MaskFormer uses it: each stage's output before patch merging, normed."""

    model_type = "maskformer-swin"

    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    num_heads: Sequence[int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5

    def _settle(self, rest: dict[str, Any]) -> None:
        self.depths, self.num_heads = tuple(self.depths), tuple(self.num_heads)
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths and num_heads must be of one length, got {self.depths} and "
                f"{self.num_heads} for a backbone of model_type {self.model_type!r}"
            )
        self._align_stages(depths=self.depths)

    @property
    def num_layers(self) -> int:
        return len(self.depths)

    @property
    def hidden_size(self) -> int:
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "hidden_size": self.hidden_size, "num_layers": self.num_layers}


@dataclass(init=False)
class SwinConfig(MaskFormerSwinConfig):
    """Swin under its plain name, as published MaskFormer checkpoints carry it."""

    model_type = "swin"

    encoder_stride: int = 32


@dataclass(init=False)
class ResNetConfig(_BackboneConfig):
    """transformers' ResNet, with batch norm that may be frozen."""

    model_type = "resnet"
    not_in_transformers = ("frozen_batch_norm",)

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: Sequence[int] = (256, 512, 1024, 2048)
    depths: Sequence[int] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    frozen_batch_norm: bool = False
    """Statistics and affine part stay as loaded, as published. Changes training alone, so that
    transformers may pass over it."""

    def _settle(self, rest: dict[str, Any]) -> None:
        self.hidden_sizes, self.depths = tuple(self.hidden_sizes), tuple(self.depths)
        if self.layer_type not in ("basic", "bottleneck"):
            raise ValueError(
                f"layer_type must be basic or bottleneck, got {self.layer_type!r} for a backbone "
                "of model_type 'resnet'"
            )
        self._align_stages(depths=self.depths)


@dataclass(init=False)
class DeepLabResNetConfig(ResNetConfig):
    """ResNet as DeepLab has it: three small convolutions for a stem, and dilated stages.

    Of a type of its own, so that transformers, which has no such thing, refuses it instead of
    computing something else. The defaults are those of the published R101c.
    """

    model_type = "deeplab-resnet"

    embedding_size: int = 128
    depths: Sequence[int] = (3, 4, 23, 3)
    dilations: Sequence[int] = (1, 1, 1, 1)
    """One for each stage. A stage of more than 1 keeps the size of the map before it."""
    multi_grid: Sequence[int] = (1, 2, 4)
    """What the dilation of each block of the last stage is multiplied by."""

    def _settle(self, rest: dict[str, Any]) -> None:
        super()._settle(rest)
        self.dilations, self.multi_grid = tuple(self.dilations), tuple(self.multi_grid)
        if len(self.dilations) != len(self.depths) or len(self.multi_grid) != self.depths[-1]:
            raise ValueError(
                "dilations must have a number for each stage and multi_grid one for each block of "
                f"the last, got {self.dilations} and {self.multi_grid} for depths {self.depths}"
            )


@dataclass(init=False)
class TimmBackboneConfig(_BackboneConfig):
    """Any model of timm that gives features; timm alone knows its stages."""

    model_type = "timm_backbone"

    backbone: str | None = None
    num_channels: int = 3
    features_only: bool = True
    freeze_batch_norm_2d: bool = False
    output_stride: int | None = None

    def _settle(self, rest: dict[str, Any]) -> None:
        # Old configurations carry it. Weights never come from the network unasked.
        rest.pop("use_pretrained_backbone", None)
        self.out_indices = [-1] if self.out_indices is None else list(self.out_indices)

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        # transformers takes the indices alone and derives the rest from timm.
        return {k: v for k, v in values.items() if k not in ("stage_names", "out_features")}


BackboneConfig = MaskFormerSwinConfig | ResNetConfig | TimmBackboneConfig

BACKBONES: dict[str, type[BackboneConfig]] = {
    config.model_type: config
    for config in (
        SwinConfig,
        MaskFormerSwinConfig,
        ResNetConfig,
        DeepLabResNetConfig,
        TimmBackboneConfig,
    )
}
