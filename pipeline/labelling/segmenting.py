"""Segments blocks of pixels into rows, on an actor's device.

Takes the blocks of `loading.py`; gives the rows that `commit.py` stages. An actor holds one
`Segmenter` and calls it from two threads at once, which take turns at the model, a block each; a
third thread post-processes one batch while the next is in the model.
"""

import faulthandler
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from maskformer import Segmentation, Span, Stitcher
from pipeline.labelling.batch_segmenter import (
    BatchSegmenter,
    Prediction,
    compile_kernels,
)
from pipeline.labelling.limits import time_limit
from pipeline.labelling.little_memory import enlarged, free_memory, grids, is_out_of_memory, shrunk
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.model_inputs import LoadedImage, images_of, size_of, without_pixels
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES, ImageKey
from pipeline.labelling.segmented_rows import error_columns, segmented_rows
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.allocator import keep_memory

_BYTES_PER_PIXEL_ON_A_GPU = 4096

_Columns = dict[ImageKey, dict[str, Any]]
"""The columns that segmenting adds to rows, by the rows' unit and position."""


class Segmenter:
    """Segments blocks of images, in batches that the device has memory for."""

    def __init__(
        self,
        model_files: ModelFiles,
        *,
        settings: SegmentSettings,
        num_threads: int | None = None,
        gpu_share: float = 1.0,
        num_whole_instances: int | None = None,
    ) -> None:
        """Loads the model onto the GPU, or the CPU where there is none.

        Args:
            gpu_share: of the GPU's memory, what batches may take.
            num_whole_instances: of an image's best instances, how many get whole masks beside the
                rows, for published AP. For the task instance alone.
        """
        keep_memory()
        # Post-processing takes one thread: more would compete with the model's for the cores.
        self._post_processor = ThreadPoolExecutor(
            1, initializer=torch.set_num_threads, initargs=(1,)
        )
        compiling = self._post_processor.submit(compile_kernels)
        self._settings = settings
        self._batch_segmenter = BatchSegmenter(
            model_files,
            settings=settings,
            num_threads=num_threads,
            num_whole_instances=num_whole_instances,
        )
        device = self._batch_segmenter.model.device
        self._batch_pixels = settings.batch_pixels or _pixels_at_once(device, share=gpu_share)
        self._schema = ROWS if num_whole_instances is None else ROWS.append(WHOLE_INSTANCES)
        self._model_is_free = threading.Lock()
        compiling.result()

    def __call__(self, block: pa.Table) -> pa.Table:
        images = images_of(block)
        rows = without_pixels(block).to_pylist()
        with self._model_is_free, torch.inference_mode():
            pending = [each for batch in self._batches(images) for each in self._start(batch)]
        columns: _Columns = {}
        for each in pending:
            columns |= _result(each, seconds=self._settings.segment_seconds * len(images))
        return segmented_rows(rows, columns, schema=self._schema)

    def _batches(self, images: list[LoadedImage]) -> Iterator[list[LoadedImage]]:
        """Yields images of one padded size, with at most `_batch_pixels` pixels together."""
        by_size: dict[tuple[int, int], list[LoadedImage]] = defaultdict(list)
        for image in images:
            by_size[self._padded_size(image)].append(image)
        for (height, width), group in by_size.items():
            while group:
                count = max(1, self._batch_pixels // (height * width))
                yield group[:count]
                group = group[count:]

    def _padded_size(self, image: LoadedImage) -> tuple[int, int]:
        return self._batch_segmenter.processor.padded_size(image.model_size)

    def _start(self, batch: list[LoadedImage]) -> "list[Future[_Columns]]":
        """Runs the model and starts post-processing; in halves where memory is short."""
        predictions = self._predictions_if_they_fit(batch)
        if predictions is not None:
            return [self._post_processor.submit(self._columns, predictions)]
        if len(batch) > 1:
            half = len(batch) // 2
            height, width = self._padded_size(batch[0])
            self._batch_pixels = half * height * width  # of batches to come
            return [*self._start(batch[:half]), *self._start(batch[half:])]
        columns = self._columns_in_little_memory(batch[0])
        return [self._post_processor.submit(dict, {batch[0].key: columns})]

    def _columns(self, predictions: list[Prediction]) -> _Columns:
        return {each.image.key: self._batch_segmenter.columns(each) for each in predictions}

    def _predictions_if_they_fit(self, batch: list[LoadedImage]) -> list[Prediction] | None:
        """Returns None where the device has no memory for the batch."""
        try:
            with time_limit(self._settings.segment_seconds * len(batch)):
                return self._batch_segmenter.predict(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # outside the handler, where the error no longer holds tensors
        return None

    def _columns_in_little_memory(self, image: LoadedImage) -> dict[str, Any]:
        """Returns the columns of an image that does not fit, as `out_of_memory` says."""
        if self._settings.out_of_memory == "shrink":
            for pixels in shrunk(image.pixels):
                smaller = replace(image, pixels=pixels, model_size=size_of(pixels))
                predictions = self._predictions_if_they_fit([smaller])
                if predictions is not None:
                    return self._batch_segmenter.columns(predictions[0])
        if self._settings.out_of_memory == "tile":
            for grid in grids(image.pixels.shape[:2]):
                segmentation = self._segmentation_of_tiles(image, grid)
                if segmentation is not None:
                    return self._batch_segmenter.columns_of(
                        enlarged(segmentation, size=image.size), size=image.size
                    )
        height, width = image.pixels.shape[:2]
        return error_columns(
            "SegmenterOutOfMemory",
            f"{image.uri}: the model has no memory for {height} x {width} pixels; see "
            "out_of_memory",
        )

    def _segmentation_of_tiles(
        self, image: LoadedImage, grid: list[tuple[Span, Span]]
    ) -> Segmentation | None:
        """Joins the segments of an image's tiles; returns None where a tile does not fit."""
        fused = self._batch_segmenter.labels if self._settings.task == "semantic" else ()
        stitcher = Stitcher(
            (image.pixels.shape[0], image.pixels.shape[1]),
            label_ids_to_fuse=fused or self._settings.resolved.label_ids_to_fuse,
        )
        for rows, columns in grid:
            pixels = np.ascontiguousarray(
                image.pixels[rows.start : rows.stop, columns.start : columns.stop]
            )
            size = size_of(pixels)
            tile = replace(image, pixels=pixels, size=size, model_size=size)
            predictions = self._predictions_if_they_fit([tile])
            if predictions is None:
                return None
            stitcher.add(
                self._batch_segmenter.segmentation(predictions[0]), rows=rows, columns=columns
            )
        return stitcher.joined()


def _result(pending: "Future[_Columns]", *, seconds: float) -> _Columns:
    """Waits for post-processing; ends the process where it hangs, as `time_limit` does.

    `time_limit` itself serves one thread at a time, which is the model's.
    """
    try:
        return pending.result(timeout=seconds)
    except TimeoutError:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os._exit(1)


def _pixels_at_once(device: torch.device, *, share: float) -> int:
    """Returns the pixels of a batch: one image on a CPU; what the share of a GPU has room for."""
    if device.type != "cuda":
        return 1
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(share * memory) // _BYTES_PER_PIXEL_ON_A_GPU
