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
    "MaskFormerLoss": "criterion.loss",
    "Normalisers": "criterion.loss",
    "step_normalisers": "criterion.loss",
    "MaskFormerHungarianMatcher": "criterion.matcher",
    "IdMap": "criterion.targets",
    "MaskRuns": "criterion.mask_runs",
    "MaskAP": "metrics",
    "MeanIoU": "metrics",
    "PanopticQuality": "metrics",
    "KeptQueries": "postprocessing.segments",
    "Segment": "postprocessing.segments",
    "Segmentation": "postprocessing.segments",
    "instance_segmentation": "postprocessing.instances",
    "keep_instance": "postprocessing.instances",
    "keep_panoptic": "postprocessing.panoptic",
    "panoptic_segmentation": "postprocessing.panoptic",
    "semantic_segments": "postprocessing.semantic",
    "BatchPostprocessor": "postprocessing.batch_segments",
    "PendingSegments": "postprocessing.batch_segments",
    "EncodedSegments": "postprocessing.encoded_segments",
    "encode_segmentation": "postprocessing.encoded_segments",
    "WholeInstance": "postprocessing.whole_instances",
    "whole_instances": "postprocessing.whole_instances",
    "SemanticTestTimeAugmentation": "inference.augmentation",
    "SlidingWindows": "inference.windows",
    "to_rgb": "preprocessing.resizing",
    "decode_rle": "run_lengths.rle",
    "Runs": "run_lengths.runs",
    "area_of": "run_lengths.runs",
    "is_overlapping": "run_lengths.runs",
    "painted": "run_lengths.runs",
    "rle_runs": "run_lengths.runs",
    "counts_of": "run_lengths.rle",
    "encode_mask": "cpu.segment_shapes",
    "Span": "inference.spans",
    "window_grid": "inference.spans",
    "Stitcher": "inference.stitching",
    "encode_segments": "cpu.segment_shapes",
    "measure_rles": "cpu.rle_shapes",
    "overlap_rles": "cpu.rle_overlaps",
    "RleOverlaps": "cpu.rle_overlaps",
    "LoadReport": "checkpoints.checkpoint",
    "load_weights": "checkpoints.checkpoint",
    "load_backbone": "backbone_weights",
    "GraphFiles": "export.graph_file",
    "OnnxModel": "export.onnx_model",
    "kept_graph": "export.kept_graphs",
    "code_digest": "kept_files",
    "user_cache": "kept_files",
    "check_folder": "checkpoints.folder",
    "check_forward": "conversion",
    "check_model": "conversion",
    "check_shapes": "weights",
    "convert_weights": "weights",
    "config_file": "checkpoints.folder",
    "resolve_folder": "hub",
    "MODELS": "zoo",
    "known_things": "zoo",
    "zoo_table": "zoo.table",
    "label_maps_count_from_one": "zoo",
    "weight_files": "checkpoints.folder",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
