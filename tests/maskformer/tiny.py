"""A whole MaskFormer, small enough for a test."""

import torch

from maskformer.configuration import MaskFormerConfig, MaskFormerDetrConfig, SwinConfig
from maskformer.model import MaskFormerForInstanceSegmentation

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def make_tiny(**values) -> MaskFormerForInstanceSegmentation:
    """Random weights, always the same; `values` are fields of its configuration."""
    torch.manual_seed(0)
    config = MaskFormerConfig(
        **{
            "backbone_config": SwinConfig(
                embed_dim=16,
                depths=(1, 2, 1, 1),
                num_heads=(1, 2, 2, 4),
                window_size=4,
                out_features=STAGES,
            ),
            "decoder_config": MaskFormerDetrConfig(
                d_model=32,
                num_queries=10,
                encoder_layers=2,
                encoder_ffn_dim=64,
                decoder_layers=3,
                decoder_ffn_dim=64,
            ),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
            "num_labels": 4,
            **values,
        }
    )
    return MaskFormerForInstanceSegmentation(config).eval()
