"""Looking: whole photographs to rows of segments, by several looks at each, on the actor's device.

Takes the blocks of `loading.py` with pixels that nobody resized; gives the rows that `scoring.py`
judges. What is seen is put together by `maskformer`: versions of an image, or its windows.
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

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
)
from pipeline.evaluation.inference_modes import InferenceMode, MultiScale
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.segmenting import load_model, pixels_of, segment_columns, segmented_rows
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.allocator import keep_memory


class MultiViewSegmenter:
    """A model on a device, from blocks of whole photographs to rows of segments."""

    def __init__(
        self,
        *,
        model_files: Callable[[], ModelFiles],
        settings: SegmentSettings,
        mode: InferenceMode,
        num_threads: int | None = None,
    ) -> None:
        keep_memory()
        self._settings = settings
        self._num_threads = num_threads or torch.get_num_threads()
        model, processor = load_model(model_files(), settings=settings)
        self._labels = model.config.id2label
        self._segmentation = _seen(model, processor, settings=settings, mode=mode)
        self._model_is_free = threading.Lock()

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        with self._model_is_free:
            torch.set_num_threads(self._num_threads)  # it is each thread's own
            results = [None if row["pixels"] is None else self._segments(row) for row in rows]
        return segmented_rows(rows, results)

    def _segments(self, row: dict[str, Any]) -> dict[str, Any]:
        return segment_columns(
            self._segmentation(pixels_of(row)),
            size=(row["height"], row["width"]),
            settings=self._settings,
            labels=self._labels,
        )


def _seen(
    model: MaskFormerForInstanceSegmentation,
    processor: MaskFormerImageProcessor,
    *,
    settings: SegmentSettings,
    mode: InferenceMode,
) -> Callable[[np.ndarray], Segmentation]:
    """What makes segments of an image's pixels."""
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
    """A map of labels as segments; a mean over views is no probability, and gives no score."""
    return Segmentation(
        segmentation=(labels + 1).to(torch.int32),
        segments=tuple(
            Segment(id=label + 1, label_id=label, score=math.nan)
            for label in labels.unique().tolist()
        ),
    )
