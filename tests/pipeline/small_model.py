"""A small model with random weights that nevertheless finds several segments in an image."""

import torch

from maskformer import (
    MaskFormerConfig,
    MaskFormerDetrConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerSwinConfig,
)

LABELS = ("road", "sky", "tree", "car")


def small_model() -> MaskFormerForInstanceSegmentation:
    torch.manual_seed(4)
    config = MaskFormerConfig.from_backbone_and_decoder_configs(
        MaskFormerSwinConfig(
            embed_dim=16,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 4),
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        MaskFormerDetrConfig(d_model=32, num_queries=12, decoder_layers=2, decoder_ffn_dim=64),
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    model = MaskFormerForInstanceSegmentation(config)
    with torch.no_grad():  # spread out, so that queries differ in label and in mask
        model.class_predictor.weight.mul_(20)
        model.model.transformer_module.queries_embedder.weight.mul_(5)
        for parameter in model.mask_embedder.parameters():
            parameter.mul_(4)
    return model
