"""Segments blocks of whole photographs by several views of each, on an actor's device.

Takes the blocks of `unit_loader.py` with pixels at their original size; gives the rows that
`scoring.py` scores. The views, sizes and mirror images or windows, are joined by `maskformer`.
"""

import functools
import math
import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64
from torch import Tensor

from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    Segment,
    Segmentation,
    SemanticTestTimeAugmentation,
    SlidingWindows,
    encode_segmentation,
)
from pipeline.evaluation.inference_modes import InferenceMode, MultiScale
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.reading.unit_loader import pixels_of
from pipeline.labelling.rows import image_key
from pipeline.labelling.segmenting.model_loading import load_model
from pipeline.labelling.segmenting.segmented_rows import SegmentedImages, segmented_rows
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.allocator import keep_memory


class MultiViewSegmenter:
    """Segments blocks of photographs; each image in all its views, one image at a time."""

    def __init__(
        self,
        model_files: ModelFiles,
        *,
        settings: SegmentSettings,
        mode: InferenceMode,
        num_threads: int | None = None,
    ) -> None:
        keep_memory()
        self._settings = settings
        self._num_threads = num_threads or torch.get_num_threads()
        model, processor = load_model(model_files, settings=settings)
        self._labels = model.config.id2label
        self._segmentation = _joined_views(model, processor, settings=settings, mode=mode)
        self._model_is_free = threading.Lock()

    def __call__(self, block: pa.Table) -> pa.Table:
        with self._model_is_free:
            torch.set_num_threads(self._num_threads)  # it is each thread's own
            parts = [
                SegmentedImages(
                    keys=(image_key(row),),
                    segments=encode_segmentation(self._segmentation(pixels_of(row))),
                )
                for row in block.to_pylist()
                if row["pixels"] is not None
            ]
        return segmented_rows(block, parts, settings=self._settings, labels=self._labels)


def _joined_views(
    model: MaskFormerForInstanceSegmentation,
    processor: MaskFormerImageProcessor,
    *,
    settings: SegmentSettings,
    mode: InferenceMode,
) -> Callable[[np.ndarray], Segmentation]:
    """Returns the function from an image's pixels to the segments of all its views."""
    if isinstance(mode, MultiScale):
        augmented = SemanticTestTimeAugmentation(
            model,
            processor,
            short_edges=mode.short_edges,
            longest_edge=mode.longest_edge,
            flip=mode.flip,
        )
        return lambda pixels: _regions(augmented(pixels))
    windows = SlidingWindows(model, processor, window_size=mode.size, overlap=mode.overlap)
    if settings.task == "semantic":
        return lambda pixels: _regions(windows.semantic(pixels))
    chosen = settings.resolved
    return functools.partial(
        windows.panoptic,
        threshold=chosen.threshold,
        mask_threshold=chosen.mask_threshold,
        overlap_mask_area_threshold=chosen.overlap_mask_area_threshold,
        label_ids_to_fuse=chosen.label_ids_to_fuse,
    )


def _regions(labels: Int64[Tensor, "height width"]) -> Segmentation:
    """Turns a label map into segments; without scores, since a mean of views is no probability."""
    return Segmentation(
        segmentation=(labels + 1).to(torch.int32),
        segments=tuple(
            Segment(id=label + 1, label_id=label, score=math.nan)
            for label in labels.unique().tolist()
        ),
    )
