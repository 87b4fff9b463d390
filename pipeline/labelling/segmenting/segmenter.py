"""Segments blocks of pixels into rows, on an actor's device.

Takes the blocks of `unit_loader.py`; gives the rows that `commit.py` stages. An actor holds one
`Segmenter` and calls it from two threads at once.

There are two ways. By image, as CPUs do it: the two threads take turns at the model, a block each;
the masks of kept queries alone are made, and a third thread post-processes one batch, image by
image, while the next is in the model. By batch, as GPUs do it: one thread launches the model and
the post-processing of batch after batch and never waits; two others finish what comes back.
"""

import faulthandler
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from maskformer import PendingSegments, Segmentation, Span, Stitcher
from pipeline.labelling.reading.limits import time_limit
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES
from pipeline.labelling.segmenting.batch_segmenter import (
    BatchSegmenter,
    Prediction,
    compile_kernels,
    segmented_image,
)
from pipeline.labelling.segmenting.batch_sizes import next_batch
from pipeline.labelling.segmenting.batches_in_flight import BatchesInFlight
from pipeline.labelling.segmenting.device_jpegs import DecodedBlock, decode_block
from pipeline.labelling.segmenting.little_memory import (
    enlarged,
    free_memory,
    grids,
    is_out_of_memory,
    shrunk,
)
from pipeline.labelling.segmenting.model_inputs import LoadedImage, size_of
from pipeline.labelling.segmenting.model_loading import ModelSource
from pipeline.labelling.segmenting.segmented_rows import (
    ImageFailure,
    SegmentedImages,
    segmented_rows,
)
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.allocator import keep_memory
from pipeline.storage import Storage

_BYTES_PER_PIXEL_ON_A_GPU = 1024
"""Of the model's input, with 4 bytes a number; half of it with 2. A larger model takes more, and
halves its batches once."""

_NUM_FINISHERS = 2
_SWITCH_SECONDS = 0.0005

_Parts = list[SegmentedImages]


class Segmenter:
    """Segments blocks of images, in batches that the device has memory for."""

    def __init__(
        self,
        model_files: ModelSource,
        *,
        settings: SegmentSettings,
        num_threads: int | None = None,
        gpu_share: float = 1.0,
        num_whole_instances: int | None = None,
        way: Literal["by_image", "by_batch"] | None = None,
        storage: Storage | None = None,
    ) -> None:
        """Loads the model onto the GPU, or the CPU where there is none.

        Args:
            gpu_share: of the GPU's memory, what batches may take.
            num_whole_instances: of an image's best instances, how many get whole masks beside the
                rows, for published AP. For the task instance alone.
            way: by default by batch on a GPU, by image on a CPU. Whole instances are always made
                by image.
            storage: where compiled code is kept; None for one of default settings.
        """
        # Beside a GPU the threads that finish batches would wait for each other's allocations.
        keep_memory(has_one_arena=not torch.cuda.is_available())
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
            storage=storage,
        )
        device = self._batch_segmenter.model.device
        self._batch_pixels = settings.batch_pixels or _pixels_at_once(
            device, share=gpu_share, precision=settings.precision
        )
        self._schema = ROWS if num_whole_instances is None else ROWS.append(WHOLE_INSTANCES)
        self._model_is_free = threading.Lock()
        by_batch = device.type == "cuda" if way is None else way == "by_batch"
        self._launcher: ThreadPoolExecutor | None = None
        if by_batch and self._batch_segmenter.can_start:
            self._launcher = ThreadPoolExecutor(1, "launch")
            self._in_flight = BatchesInFlight[_Parts](num_threads=_NUM_FINISHERS)
        if device.type == "cuda":
            self._prepare_threads(device)
        compiling.result()

    def _prepare_threads(self, device: torch.device) -> None:
        # A thread works on the first card, until it is told that the model is on another.
        self._post_processor.submit(torch.cuda.set_device, device)
        if self._launcher is None:
            return
        self._launcher.submit(torch.cuda.set_device, device)
        # A thread that wants the interpreter's lock waits so long for one that computes: launches
        # are short, and the default of 5 ms is that of a hundred of them.
        sys.setswitchinterval(_SWITCH_SECONDS)

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._launcher is not None:
            decoded, pending = self._launcher.submit(self._started, block).result()
        else:
            with self._model_is_free:
                decoded, pending = self._started(block)
        seconds = self._settings.segment_seconds * len(decoded.images)
        return segmented_rows(
            decoded.rows,
            [part for each in pending for part in _result(each, seconds=seconds)],
            settings=self._settings,
            labels=self._batch_segmenter.labels,
            schema=self._schema,
        )

    @torch.inference_mode()
    def _started(self, block: pa.Table) -> "tuple[DecodedBlock, list[Future[_Parts]]]":
        decoded = decode_block(block, device=self._batch_segmenter.model.device)
        batches = self._batches(decoded.images)
        return decoded, [each for batch in batches for each in self._start(batch)]

    def _batches(self, images: list[LoadedImage]) -> Iterator[list[LoadedImage]]:
        """Yields images of one padded size, with at most `_batch_pixels` pixels together."""
        by_size: dict[tuple[int, int], list[LoadedImage]] = defaultdict(list)
        for image in images:
            by_size[self._padded_size(image)].append(image)
        for padded_size, group in by_size.items():
            while group:
                count = self._images_at_once(group, padded_size=padded_size)
                yield group[:count]
                group = group[count:]

    def _images_at_once(self, group: list[LoadedImage], *, padded_size: tuple[int, int]) -> int:
        """Returns how many of the images the device has memory for and gains by."""
        if self._settings.batch_pixels is not None:
            return max(1, self._batch_pixels // (padded_size[0] * padded_size[1]))
        sizes = [image.size for image in group]
        return next_batch(sizes, padded_size=padded_size, most_pixels=self._batch_pixels)

    def _padded_size(self, image: LoadedImage) -> tuple[int, int]:
        return self._batch_segmenter.processor.padded_size(image.model_size)

    def _start(self, batch: list[LoadedImage]) -> "list[Future[_Parts]]":
        """Runs the model and starts post-processing; in halves where memory is short."""
        if self._launcher is not None:
            started = self._started_if_it_fits(batch)
            if started is not None:
                return [started]
        elif (predictions := self._predictions_if_they_fit(batch)) is not None:
            return [self._post_processor.submit(self._parts, predictions)]
        if len(batch) > 1:
            half = len(batch) // 2
            height, width = self._padded_size(batch[0])
            self._batch_pixels = half * height * width  # of batches to come
            return [*self._start(batch[:half]), *self._start(batch[half:])]
        part = self._in_little_memory(batch[0])
        return [self._post_processor.submit(list, [part])]

    def _parts(self, predictions: list[Prediction]) -> _Parts:
        return [self._batch_segmenter.segmented(each) for each in predictions]

    def _started_if_it_fits(self, batch: list[LoadedImage]) -> "Future[_Parts] | None":
        """Launches a batch; returns None where the device has no memory for it.

        What batches in flight hold is waited for first: without them it may fit.
        """
        is_alone = False
        while not is_alone:
            try:
                return self._in_flight.start(partial(self._launched, batch), num_images=len(batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            is_alone = not self._in_flight.drain()
            free_memory()  # outside the handler, where the error no longer holds tensors
        return None

    def _launched(self, batch: list[LoadedImage]) -> Callable[[], _Parts]:
        with time_limit(self._settings.segment_seconds * len(batch)):
            pending = self._batch_segmenter.start(batch)
        return partial(_finished, batch, pending)

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

    def _in_little_memory(self, image: LoadedImage) -> SegmentedImages:
        """Returns the segments of an image that does not fit, as `out_of_memory` says."""
        image = self._batch_segmenter.model_inputs.at_model_size(image)
        if self._settings.out_of_memory == "shrink":
            for pixels in shrunk(np.asarray(image.pixels)):
                smaller = replace(image, pixels=pixels, model_size=size_of(pixels))
                predictions = self._predictions_if_they_fit([smaller])
                if predictions is not None:
                    return self._batch_segmenter.segmented(predictions[0])
        if self._settings.out_of_memory == "tile":
            for grid in grids(image.model_size):
                segmentation = self._segmentation_of_tiles(image, grid)
                if segmentation is not None:
                    return segmented_image(image, enlarged(segmentation, size=image.size))
        height, width = image.model_size
        message = (
            f"{image.uri}: the model has no memory for {height} x {width} pixels; see out_of_memory"
        )
        failure = ImageFailure(error_class="SegmenterOutOfMemory", message=message)
        return SegmentedImages(failures={image.key: failure})

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


def _finished(batch: list[LoadedImage], pending: PendingSegments) -> _Parts:
    return [SegmentedImages(keys=tuple(image.key for image in batch), segments=pending.result())]


def _result(pending: "Future[_Parts]", *, seconds: float) -> _Parts:
    """Waits for post-processing; ends the process where it hangs, as `time_limit` does.

    `time_limit` itself serves one thread at a time, which is the model's.
    """
    try:
        return pending.result(timeout=seconds)
    except TimeoutError:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os._exit(1)


def _pixels_at_once(device: torch.device, *, share: float, precision: str) -> int:
    """Returns the pixels of a batch: one image on a CPU; what the share of a GPU has room for."""
    if device.type != "cuda":
        return 1
    memory = torch.cuda.get_device_properties(device).total_memory
    halves = 2 if precision in ("bf16", "fp16") else 1
    return int(share * memory) * halves // _BYTES_PER_PIXEL_ON_A_GPU
