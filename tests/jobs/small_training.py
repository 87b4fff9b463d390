"""A model that is small enough to be trained for some steps in some seconds."""

from typing import Any

SMALL_MODEL: dict[str, Any] = {
    "architecture": {
        "backbone_config": {
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "drop_path_rate": 0.0,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "decoder_config": {
            "model_type": "detr",
            "d_model": 32,
            "num_queries": 8,
            "decoder_layers": 2,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "dropout": 0.0,  # is drawn by each worker
        },
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
    },
    "image_processor": {"size": {"shortest_edge": 64, "longest_edge": 128}},
}
"""Settings of a fine-tuning job that build it."""
