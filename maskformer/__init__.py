"""MaskFormer: the model, and what turns images into its inputs and its outputs into segments.

Names are loaded when they are first used, so that a process that only resizes images or encodes
masks starts without torch.
"""

import importlib
from typing import Any

_HOME = {
    "DeepLabResNetConfig": "configuration",
    "MaskFormerConfig": "configuration",
    "MaskFormerDetrConfig": "configuration",
    "MaskFormerSwinConfig": "configuration",
    "ResNetConfig": "configuration",
    "TimmBackboneConfig": "configuration",
    "MaskFormerFeatureExtractor": "image_processor",
    "MaskFormerImageProcessor": "image_processor",
    "MaskFormerForInstanceSegmentation": "model",
    "MaskFormerModel": "model",
    "QueryDecoding": "outputs",
    "MaskFormerForInstanceSegmentationOutput": "outputs",
    "MaskFormerModelOutput": "outputs",
    "MaskFormerLoss": "loss",
    "Normalisers": "loss",
    "step_normalisers": "loss",
    "MaskFormerHungarianMatcher": "matcher",
    "IdMap": "targets",
    "BoundaryIoU": "metrics",
    "MaskAP": "metrics",
    "MeanIoU": "metrics",
    "PanopticQuality": "metrics",
    "Kept": "postprocess",
    "Segment": "postprocess",
    "Segmentation": "postprocess",
    "instance_segmentation": "postprocess",
    "keep_instance": "postprocess",
    "keep_panoptic": "postprocess",
    "panoptic_segmentation": "postprocess",
    "semantic_segments": "postprocess",
    "SemanticTestTimeAugmentation": "test_time",
    "SlidingWindows": "windows",
    "to_rgb": "resizing",
    "decode_rle": "rle",
    "encode_mask": "segment_shapes",
    "Span": "spans",
    "window_grid": "spans",
    "Stitcher": "stitching",
    "encode_segments": "segment_shapes",
    "measure_rles": "rle_shapes",
    "LoadReport": "checkpoint",
    "load_weights": "checkpoint",
    "load_backbone": "checkpoints.backbones",
    "check_folder": "weights",
    "check_shapes": "weights",
    "config_file": "weights",
    "resolve_folder": "weights",
    "MODELS": "zoo",
    "weight_files": "weights",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
