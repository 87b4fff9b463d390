"""Configurations: what a model is made of, in transformers' names, fields and defaults.

Takes keyword arguments, a dictionary or the `config.json` of a folder, written by transformers 4
or 5 or by us; gives plain objects without torch. `model.py` builds the model they describe, and
`weights.py` reads them to judge a folder before anything starts.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

CONFIG_NAME = "config.json"

Config = TypeVar("Config", bound="PretrainedConfig")

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
PixelDecoderKind = Literal["fpn", "transformer_encoder"]
InFeature = Literal["res2", "res3", "res4", "res5", "transformer_encoder"]

# The type of a decoder whose queries look at something that transformers' do not.
_NOT_DETR = "detr-on-other-features"


@dataclass(init=False)
class PretrainedConfig:
    """The fields that every configuration has, and the way to and from JSON.

    Keyword arguments only. `num_labels` is no field: it is the length of `id2label`, and setting it
    names the labels anew where the number differs.
    """

    model_type: ClassVar[str] = ""
    not_in_transformers: ClassVar[tuple[str, ...]] = ()
    """Fields of ours alone: written only where they differ from the default."""

    architectures: Sequence[str] | None = None
    transformers_version: str | None = None
    output_hidden_states: bool | None = False
    output_attentions: bool | None = False
    return_dict: bool | None = True
    dtype: Any = None
    """The name of the weights' type, such as "float32", where known; a torch dtype is taken too."""
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __init__(self, **values: Any) -> None:
        num_labels = values.pop("num_labels", None)
        for field in fields(self):
            setattr(self, field.name, values.pop(field.name, deepcopy(field.default)))
        self._settle(values)
        if values:
            raise TypeError(
                f"{type(self).__name__} has no field {', '.join(map(repr, values))}; "
                f"its fields are {', '.join(sorted(field.name for field in fields(self)))}"
            )
        self._tie_labels(num_labels)
        if self.dtype is not None:
            self.dtype = str(self.dtype).removeprefix("torch.")

    def _settle(self, rest: dict[str, Any]) -> None:
        """Makes derived and nested values; takes what it understands out of `rest`."""

    def _tie_labels(self, num_labels: int | None) -> None:
        if self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
        self.id2label = {int(index): str(label) for index, label in self.id2label.items()}
        if num_labels is not None and num_labels != len(self.id2label):
            raise ValueError(
                f"num_labels must be the length of id2label, got {num_labels} for "
                f"{len(self.id2label)} labels; give one of the two"
            )
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        self.label2id = {str(label): int(index) for label, index in self.label2id.items()}

    @property
    def num_labels(self) -> int:
        return len(self.id2label or {})

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        if self.id2label is None or num_labels != len(self.id2label):
            self.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], **overrides: Any) -> Config:
        """Reads what we know and passes over the rest: published files carry keys of many versions.

        `overrides` must be fields, and win.
        """
        if "num_labels" in overrides:
            values = {k: v for k, v in values.items() if k not in ("id2label", "label2id")}
        elif "id2label" in overrides:
            values = {k: v for k, v in values.items() if k != "label2id"}
        known = {"num_labels", *cls._read_besides_fields(), *(field.name for field in fields(cls))}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("id2label") is not None:
            kept.pop("num_labels", None)
        if kept.get("dtype") is None and values.get("torch_dtype") is not None:
            kept["dtype"] = values["torch_dtype"]
        return cls(**{**kept, **overrides})

    @classmethod
    def _read_besides_fields(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def from_json_file(cls: type[Config], path: str | Path, **overrides: Any) -> Config:
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} must be a readable JSON file: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
        try:
            return cls.from_dict(values, **overrides)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_pretrained(cls: type[Config], name_or_folder: str | Path, **overrides: Any) -> Config:
        """The configuration of a folder, or of a model on the hub, which is fetched."""
        from maskformer.weights import resolve_folder

        folder = Path(resolve_folder(str(name_or_folder)))
        return cls.from_json_file(folder / CONFIG_NAME, **overrides)

    def to_dict(self) -> dict[str, Any]:
        values = {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if field.name not in self.not_in_transformers
            or getattr(self, field.name) != field.default
        }
        return {**values, "model_type": self.model_type}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / CONFIG_NAME)


def _plain(value: Any) -> Any:
    if isinstance(value, PretrainedConfig):
        return value.to_dict()
    if isinstance(value, tuple):
        return list(value)
    return deepcopy(value)


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

_BACKBONES: dict[str, type[BackboneConfig]] = {
    config.model_type: config
    for config in (
        SwinConfig,
        MaskFormerSwinConfig,
        ResNetConfig,
        DeepLabResNetConfig,
        TimmBackboneConfig,
    )
}


@dataclass(init=False)
class MaskFormerDetrConfig(PretrainedConfig):
    """The query decoder, in the fields of DETR's configuration; MaskFormer uses some of them.

    Those of the encoder are for the pixel decoder's, where it has one.
    """

    model_type = "detr"

    backbone_config: Any = None
    num_channels: int = 3
    num_queries: int = 100
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    is_encoder_decoder: bool = True
    activation_function: str = "relu"
    d_model: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    auxiliary_loss: bool = False
    position_embedding_type: str = "sine"
    dilation: bool = False
    class_cost: int = 1
    bbox_cost: int = 5
    giou_cost: int = 2
    mask_loss_coefficient: int = 1
    dice_loss_coefficient: int = 1
    bbox_loss_coefficient: int = 5
    giou_loss_coefficient: int = 2
    eos_coefficient: float = 0.1

    def _settle(self, rest: dict[str, Any]) -> None:
        if self.backbone_config is None:
            stride = {"output_stride": 16} if self.dilation else {}
            self.backbone_config = TimmBackboneConfig(
                backbone="resnet50",
                num_channels=self.num_channels,
                out_indices=[1, 2, 3, 4],
                **stride,
            )
        elif isinstance(self.backbone_config, Mapping):
            # DETR's own backbone plays no part here: one that we do not know stays as it came.
            known = _BACKBONES.get(str(self.backbone_config.get("model_type")))
            self.backbone_config = (
                known.from_dict(self.backbone_config) if known else dict(self.backbone_config)
            )

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_attention_heads(self) -> int:
        return self.encoder_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers


@dataclass(init=False)
class MaskFormerConfig(PretrainedConfig):
    """A whole MaskFormer: sizes and loss weights here, the backbone's and the decoder's inside.

    Without `backbone_config` it is Swin-B at 384 pixels, without `decoder_config` DETR's decoder.
    Either may be an object or a dictionary with `model_type`. What transformers cannot express is
    written so that it refuses the file: it would compute something else.
    """

    model_type = "maskformer"
    not_in_transformers = ("pixel_decoder", "transformer_in_feature")

    fpn_feature_size: int = 256
    mask_feature_size: int = 256
    no_object_weight: float = 0.1
    use_auxiliary_loss: bool = False
    backbone_config: Any = None
    decoder_config: Any = None
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    mask_weight: float = 20.0
    output_auxiliary_logits: bool | None = None
    pixel_decoder: PixelDecoderKind = "fpn"
    """`fpn`, or `transformer_encoder`: the coarsest map goes through an encoder before the pyramid,
    with `encoder_layers` and so on of `decoder_config`, as in the panoptic ResNets."""
    transformer_in_feature: InFeature = "res5"
    """What the queries look at: `res2` to `res5`, the backbone's maps with the coarsest last, or
    `transformer_encoder`, what the pixel decoder's encoder makes of it."""

    def _settle(self, rest: dict[str, Any]) -> None:
        named = {key: rest.pop(key, None) for key in self._read_besides_fields()}
        if self.backbone_config is None and named["backbone"] is not None:
            self.backbone_config = _named_backbone(**named)
        self.backbone_config = _backbone_config(self.backbone_config)
        self.decoder_config = _decoder_config(self.decoder_config)
        kinds, features = get_args(PixelDecoderKind), get_args(InFeature)
        if self.pixel_decoder not in kinds:
            raise ValueError(
                f"pixel_decoder must be one of {', '.join(kinds)}, got {self.pixel_decoder!r}"
            )
        features = features if self.has_pixel_encoder else features[:-1]
        if self.transformer_in_feature not in features:
            raise ValueError(
                f"transformer_in_feature must be one of {', '.join(features)} with pixel_decoder "
                f"{self.pixel_decoder!r}, got {self.transformer_in_feature!r}"
            )

    @property
    def has_pixel_encoder(self) -> bool:
        return self.pixel_decoder == "transformer_encoder"

    @classmethod
    def _read_besides_fields(cls) -> tuple[str, ...]:
        # How transformers 4 asked for a backbone by name.
        return ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")

    @classmethod
    def from_backbone_and_decoder_configs(
        cls: type[Config], backbone_config: Any, decoder_config: Any, **values: Any
    ) -> Config:
        return cls(backbone_config=backbone_config, decoder_config=decoder_config, **values)

    @property
    def hidden_size(self) -> int:
        return self.mask_feature_size

    @property
    def num_attention_heads(self) -> int:
        return self.decoder_config.num_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.decoder_config.num_hidden_layers

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if any(name in values for name in self.not_in_transformers):
            values["decoder_config"]["model_type"] = _NOT_DETR
        return {
            **values,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
        }

    @classmethod
    def from_pretrained(cls: type[Config], name_or_folder: str | Path, **overrides: Any) -> Config:
        """Of a folder, the zoo or the hub; of a model of the zoo nothing is fetched."""
        from maskformer.zoo import entry_of

        entry = entry_of(str(name_or_folder))
        if entry is not None:
            return cls.from_dict(entry.build_config().to_dict(), **overrides)
        return super().from_pretrained(name_or_folder, **overrides)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], **overrides: Any) -> Config:
        model_type = values.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"model_type must be {cls.model_type!r}, got {model_type!r}")
        return super().from_dict(values, **overrides)


def _named_backbone(
    *,
    backbone: str,
    use_timm_backbone: bool | None,
    use_pretrained_backbone: bool | None,
    backbone_kwargs: Mapping[str, Any] | None,
) -> TimmBackboneConfig:
    if not use_timm_backbone:
        raise ValueError(
            f"backbone by name must be timm's (use_timm_backbone), got {backbone!r}; "
            "give backbone_config instead"
        )
    if use_pretrained_backbone:
        raise ValueError(
            f"use_pretrained_backbone would fetch {backbone!r} while building; load weights after"
        )
    return TimmBackboneConfig(
        backbone=backbone, **{"out_indices": [1, 2, 3, 4], **(backbone_kwargs or {})}
    )


def _backbone_config(given: Any) -> Any:
    if given is None:
        return SwinConfig(
            image_size=384,
            embed_dim=128,
            depths=(2, 2, 18, 2),
            num_heads=(4, 8, 16, 32),
            window_size=12,
            drop_path_rate=0.3,
            out_features=STAGES[1:],
        )
    if isinstance(given, BackboneConfig):
        return given
    model_type, values = _nested("backbone_config", given)
    if model_type not in _BACKBONES:
        raise ValueError(
            f"backbone_config.model_type must be one of {', '.join(_BACKBONES)}, got "
            f"{model_type!r}; other architectures come through timm_backbone"
        )
    return _BACKBONES[model_type].from_dict(values)


def _decoder_config(given: Any) -> Any:
    if given is None:
        return MaskFormerDetrConfig()
    if isinstance(given, MaskFormerDetrConfig):
        return given
    model_type, values = _nested("decoder_config", given)
    if model_type not in (MaskFormerDetrConfig.model_type, _NOT_DETR):
        raise ValueError(f"decoder_config.model_type must be 'detr', got {model_type!r}")
    return MaskFormerDetrConfig.from_dict(values)


def _nested(name: str, given: Any) -> tuple[Any, Mapping[str, Any]]:
    """Type and values of a nested configuration: a dictionary, or another library's object."""
    values = given if isinstance(given, Mapping) else getattr(given, "to_dict", dict)()
    return values.get("model_type", "swin" if name == "backbone_config" else "detr"), values
