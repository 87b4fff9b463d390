"""The model: pixels to a class and a mask for each query.

Takes normalised images of one size; gives the outputs of `outputs.py`, which the image processor
turns into segments. Two ways: `forward` makes every mask, as training needs and transformers does;
`decode_queries` and `kept_masks` make the classes first and then the masks of the queries that are
kept. Modules have the names of the published checkpoints.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskformer.configuration import MaskFormerConfig
from maskformer.criterion.loss import MaskFormerLoss
from maskformer.criterion.matcher import (
    BatchClassLabels,
    BatchMaskLabels,
    MaskFormerHungarianMatcher,
)
from maskformer.network.backbones import build_backbone
from maskformer.network.mask_product import Projected, mask_product
from maskformer.network.pixel_decoder import PixelDecoder
from maskformer.network.query_decoder import DecodedQueries, QueryDecoder
from maskformer.network.window_attention import WindowAttention
from maskformer.outputs import (
    MaskFormerForInstanceSegmentationOutput,
    MaskFormerModelOutput,
    QueryDecoding,
)
from maskformer.pretrained import PretrainedModel
from maskformer.query_masks import QueryMasks

Pixels = Float[Tensor, "batch colours _ _"]
PixelMask = Tensor | None


class MaskFormerModel(PretrainedModel):
    """Backbone, pixel decoder and query decoder, without the heads."""

    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__(config)
        self.pixel_level_module = _PixelLevel(config)
        self.transformer_module = QueryDecoder(
            in_channels=self.pixel_level_module.channels_seen, config=config.decoder_config
        )

    def forward(
        self,
        pixel_values: Pixels,
        pixel_mask: PixelMask = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskFormerModelOutput | tuple[Any, ...]:
        """`pixel_mask` is taken and unused, as in the published codes: batch equal shapes."""
        config = self.config
        with_states = _given_or(output_hidden_states, config.output_hidden_states)
        pixel = self.pixel_level_module(pixel_values)
        decoded = self.transformer_module(
            pixel.seen, with_attentions=_given_or(output_attentions, config.output_attentions)
        )
        embeddings = self.pixel_level_module.decoder.mask_projection(pixel.features[-1])
        output = _model_output(pixel, embeddings, decoded, with_states=with_states)
        return output if _given_or(return_dict, config.return_dict) else output.to_tuple()


@dataclass(frozen=True, kw_only=True)
class _PixelOutput:
    """The output of backbone and pixel decoder."""

    maps: list[Tensor]
    """The backbone's, finest first."""
    features: list[Tensor]
    """The pyramid's, finest last, before the projection to masks."""
    seen: Tensor
    """The map that the queries look at."""


class _PixelLevel(nn.Module):
    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__()
        self.encoder = build_backbone(config.backbone_config)
        self.decoder = PixelDecoder(channels=self.encoder.channels, config=config)
        # Counted from the coarsest: backbones differ in where they begin.
        self.place_seen = _place(config.transformer_in_feature, of=self.encoder.channels)
        self.channels_seen = (
            config.fpn_feature_size
            if self.place_seen is None
            else self.encoder.channels[self.place_seen]
        )

    def forward(self, pixel_values: Pixels) -> _PixelOutput:
        maps = self.encoder(pixel_values)
        pyramid = self.decoder.pyramid(maps)
        seen = pyramid.encoded if self.place_seen is None else maps[self.place_seen]
        assert seen is not None
        return _PixelOutput(maps=maps, features=pyramid.features, seen=seen)


def _place(feature: str, *, of: Sequence[int]) -> int | None:
    """Returns a feature's index among the backbone's maps; None for the encoder's output."""
    if feature == "transformer_encoder":
        return None
    place = int(feature.removeprefix("res")) - 6
    if -place > len(of):
        raise ValueError(
            f"transformer_in_feature must be a map that the backbone gives, got {feature}, and it "
            f"gives {len(of)}; list more in backbone_config's out_features or out_indices"
        )
    return place


def _given_or(given: bool | None, default: bool | None) -> bool:
    return bool(default if given is None else given)


def _model_output(
    pixel: _PixelOutput,
    embeddings: Tensor,
    decoded: DecodedQueries,
    *,
    with_states: bool,
) -> MaskFormerModelOutput:
    states = (
        (tuple(pixel.maps), tuple(pixel.features), tuple(decoded.layer_states))
        if with_states
        else None
    )
    return MaskFormerModelOutput(
        encoder_last_hidden_state=pixel.maps[-1],
        pixel_decoder_last_hidden_state=embeddings,
        transformer_decoder_last_hidden_state=decoded.layer_states[-1],
        encoder_hidden_states=states[0] if states else None,
        pixel_decoder_hidden_states=states[1] if states else None,
        transformer_decoder_hidden_states=states[2] if states else None,
        hidden_states=states[0] + states[1] + states[2] if states else None,
        attentions=None if decoded.attentions is None else tuple(decoded.attentions),
    )


class MaskFormerForInstanceSegmentation(PretrainedModel, QueryMasks):
    """The whole model, for semantic, instance and panoptic segmentation alike."""

    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__(config)
        self.model = MaskFormerModel(config)
        width = config.decoder_config.d_model
        self.class_predictor = nn.Linear(width, config.num_labels + 1)
        self.mask_embedder = nn.Sequential(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, config.mask_feature_size)),
        )
        self.weight_dict: dict[str, float] = {
            "loss_cross_entropy": config.cross_entropy_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.matcher = MaskFormerHungarianMatcher(
            cost_class=1.0, cost_mask=config.mask_weight, cost_dice=config.dice_weight
        )
        self.criterion = MaskFormerLoss(
            config.num_labels, self.matcher, self.weight_dict, config.no_object_weight
        )

    def forward(
        self,
        pixel_values: Pixels,
        mask_labels: BatchMaskLabels | None = None,
        class_labels: BatchClassLabels | None = None,
        pixel_mask: PixelMask = None,
        output_auxiliary_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        *,
        num_masks: Float[Tensor, ""] | None = None,
        class_weight: Float[Tensor, ""] | None = None,
    ) -> MaskFormerForInstanceSegmentationOutput | tuple[Any, ...]:
        """Classes and masks of all queries, and the loss where both lists of labels are given.

        Auxiliary logits come with `output_auxiliary_logits` or, where that is None here and in the
        configuration, with `use_auxiliary_loss`, which also adds their losses. `num_masks` and
        `class_weight` normalise the loss over a step larger than this batch (`step_normalisers`).
        `pixel_mask` is taken and not used, as in the published codes: batch images of one shape.
        """
        config = self.config
        with_auxiliary = _given_or(output_auxiliary_logits, config.output_auxiliary_logits)
        if output_auxiliary_logits is None and config.output_auxiliary_logits is None:
            with_auxiliary = config.use_auxiliary_loss
        with_loss = mask_labels is not None and class_labels is not None
        pixel = self.model.pixel_level_module(pixel_values)
        decoded = self.model.transformer_module(
            pixel.seen,
            every_layer=with_auxiliary or (with_loss and config.use_auxiliary_loss),
            with_attentions=_given_or(output_attentions, config.output_attentions),
        )
        projected = Projected.by(
            self.model.pixel_level_module.decoder.mask_projection, pixel.features[-1]
        )
        class_logits, mask_logits, auxiliary = self._logits(decoded.normed_states, projected)
        loss = None
        if mask_labels is not None and class_labels is not None:
            losses = self.get_loss_dict(
                mask_logits,
                class_logits,
                mask_labels,
                class_labels,
                auxiliary if config.use_auxiliary_loss else [],
                num_masks=num_masks,
                class_weight=class_weight,
            )
            loss = self.get_loss(losses)
        with_states = _given_or(output_hidden_states, config.output_hidden_states)
        base = _model_output(pixel, projected.features, decoded, with_states=with_states)
        output = MaskFormerForInstanceSegmentationOutput(
            loss=loss,
            class_queries_logits=class_logits,
            masks_queries_logits=mask_logits,
            auxiliary_logits=auxiliary if with_auxiliary else None,
            **base,
        )
        return output if _given_or(return_dict, config.return_dict) else output.to_tuple()

    def get_logits(
        self, outputs: MaskFormerModelOutput
    ) -> tuple[
        Float[Tensor, "batch queries classes"],
        Float[Tensor, "batch queries height width"],
        list[dict[str, Tensor]],
    ]:
        """Class, mask and auxiliary logits of the base model's output.

        Auxiliary ones come with `use_auxiliary_loss`, and need the output's decoder states.
        """
        states = [outputs["transformer_decoder_last_hidden_state"]]
        if self.config.use_auxiliary_loss:
            if outputs.transformer_decoder_hidden_states is None:
                raise ValueError(
                    "auxiliary logits are made of the decoder's states; call the base model with "
                    "output_hidden_states=True"
                )
            layernorm = self.model.transformer_module.decoder.layernorm
            between = outputs.transformer_decoder_hidden_states[1:-1]
            states = [*(layernorm(state) for state in between), *states]
        return self._logits(states, Projected(features=outputs["pixel_decoder_last_hidden_state"]))

    def _logits(
        self, states: Sequence[Tensor], projected: Projected
    ) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
        # All layers at once: one large product in place of some small ones, backward too.
        stacked = torch.stack(list(states), dim=1)
        masks = mask_product(self.mask_embedder(stacked), projected).unbind(1)
        classes = self.class_predictor(stacked).unbind(1)
        auxiliary = [
            {"masks_queries_logits": mask_logits, "class_queries_logits": class_logits}
            for mask_logits, class_logits in zip(masks[:-1], classes[:-1], strict=True)
        ]
        return classes[-1], masks[-1], auxiliary

    def get_loss_dict(
        self,
        masks_queries_logits: Float[Tensor, "batch queries height width"],
        class_queries_logits: Float[Tensor, "batch queries classes"],
        mask_labels: BatchMaskLabels,
        class_labels: BatchClassLabels,
        auxiliary_logits: Sequence[Mapping[str, Tensor]] | None,
        **step: Any,
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns each loss, weighted; passes `step` on to the criterion: `num_masks` and so on."""
        losses = self.criterion(
            masks_queries_logits,
            class_queries_logits,
            mask_labels,
            class_labels,
            auxiliary_logits,
            **step,
        )
        return {
            name: loss * self.weight_dict[re.sub(r"_\d+$", "", name)]
            for name, loss in losses.items()
        }

    def get_loss(self, loss_dict: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        return torch.stack(list(loss_dict.values())).sum()

    def blocks(self) -> list[nn.Module]:
        """Returns the stages of the backbone and the layers of encoder and decoder.

        To compile them one by one, in place of the model: their gradients are then there one after
        another, as processes that average them want it.
        """
        pixel_level = self.model.pixel_level_module
        encoder = pixel_level.decoder.encoder
        return [
            *pixel_level.encoder.stages(),
            *(encoder.layers if encoder is not None else []),
            *self.model.transformer_module.decoder.layers,
        ]

    def keep_position_biases(self) -> None:
        """Computes once what attention in windows adds by relative position.

        For models in evaluation whose weights stay as they are; loading others ends it.
        """
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.keep_position_bias()

    @property
    def mask_projection(self) -> nn.Conv2d:
        return self.model.pixel_level_module.decoder.mask_projection

    def decode_queries(self, pixel_values: Pixels) -> QueryDecoding:
        """Classes of all queries, and what `kept_masks` makes masks of."""
        pixel = self.model.pixel_level_module(pixel_values)
        state = self.model.transformer_module(pixel.seen).normed_states[-1]
        return QueryDecoding(
            class_queries_logits=self.class_predictor(state),
            mask_embeddings=self.mask_embedder(state),
            pixel_features=pixel.features[-1],
        )
