"""Configurations of the query decoder and of the whole model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from maskformer.configuration.backbones import (
    BACKBONES,
    STAGES,
    BackboneConfig,
    DeepLabResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
)
from maskformer.configuration.base import Config, PretrainedConfig
from maskformer.hub import HubOptions
from maskformer.zoo import entry_of

PixelDecoderKind = Literal["fpn", "transformer_encoder"]
InFeature = Literal["res2", "res3", "res4", "res5", "transformer_encoder"]

# The type of a decoder whose queries look at something that transformers' do not.
_NOT_DETR = "detr-on-other-features"


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
            known = BACKBONES.get(str(self.backbone_config.get("model_type")))
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
    not_in_transformers = ("pixel_decoder", "transformer_in_feature", "things")

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
    things: Sequence[int] | None = None
    """Ids of the labels whose objects were learnt one by one; the others are stuff, which panoptic
    segmentation fuses. None where nobody said. transformers passes over it."""

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

    def _tie_labels(self, num_labels: int | None) -> None:
        things = self.things
        super()._tie_labels(num_labels)
        if things is None:
            return
        if not isinstance(things, Sequence) or any(i not in (self.id2label or {}) for i in things):
            raise ValueError(
                f"things must be ids of labels, 0 to {self.num_labels - 1}, got {things!r}"
            )
        self.things = sorted({*things})

    def _forget_labels(self) -> None:
        self.things = None

    @property
    def stuff(self) -> frozenset[int] | None:
        """The labels that are no things, None where nobody said which are; `label_ids_to_fuse` of
        panoptic segmentation."""
        return None if self.things is None else frozenset(self.id2label or {}) - {*self.things}

    @property
    def has_pixel_encoder(self) -> bool:
        return self.pixel_decoder == "transformer_encoder"

    @property
    def is_in_transformers(self) -> bool:
        """Returns whether transformers has this architecture and can load it."""
        of_detectron = self.backbone_config.model_type == DeepLabResNetConfig.model_type
        return self._has_transformers_decoder and not of_detectron

    @property
    def _has_transformers_decoder(self) -> bool:
        return not self.has_pixel_encoder and self.transformer_in_feature == "res5"

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
        if not self._has_transformers_decoder:
            values["decoder_config"]["model_type"] = _NOT_DETR
        return {
            **values,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
        }

    @classmethod
    def from_pretrained(
        cls: type[Config], pretrained_model_name_or_path: str | Path, **overrides: Any
    ) -> Config:
        """Reads the configuration of a folder, a model of the zoo or a hub id.

        Fetches nothing for a model of the zoo.
        """
        entry = entry_of(str(pretrained_model_name_or_path))
        if entry is not None:
            _, overrides = HubOptions.split(overrides)
            return cls.from_dict(entry.config, **overrides)
        return super().from_pretrained(pretrained_model_name_or_path, **overrides)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], **overrides: Any) -> Config:
        model_type = values.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"model_type must be {cls.model_type!r}, got {model_type!r}")
        if {"id2label", "num_labels"} & overrides.keys():
            values = {name: value for name, value in values.items() if name != "things"}
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
    if model_type not in BACKBONES:
        raise ValueError(
            f"backbone_config.model_type must be one of {', '.join(BACKBONES)}, got "
            f"{model_type!r}; other architectures come through timm_backbone"
        )
    return BACKBONES[model_type].from_dict(values)


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
