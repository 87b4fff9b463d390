"""Segmenting: blocks of pixels to rows of segments, on the actor's device.

Takes the blocks of `loading.py`; gives the rows that `commit.py` stages. An actor holds one model
and is called by two threads at once, which take turns at it, a block each; a third post-processes
one batch while the next is in the model.
"""

import dataclasses
import faulthandler
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from maskformer import (
    KeptQueries,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    Segmentation,
    Span,
    Stitcher,
    WholeInstance,
    encode_segments,
    instance_segmentation,
    keep_instance,
    keep_panoptic,
    panoptic_segmentation,
    semantic_segments,
    whole_instances,
)
from pipeline.labelling.limits import time_limit
from pipeline.labelling.little_memory import enlarged, free_memory, grids, is_out_of_memory, shrunk
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.allocator import keep_memory

_BYTES_PER_PIXEL_ON_A_GPU = 4096
_NO_SEGMENTS = {"status": "error", "num_segments": 0, "segments": []}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One image of a batch."""

    row: dict[str, Any]
    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.row["height"], self.row["width"]


@dataclass(frozen=True, kw_only=True)
class _Masks:
    """What the model says of one image: the kept queries and their mask logits."""

    image: _Image
    kept: KeptQueries | None
    class_logits: Tensor
    mask_logits: Tensor
    padded_size: tuple[int, int]

    def on(self, device: torch.device) -> "_Masks":
        return replace(
            self,
            class_logits=self.class_logits.to(device),
            mask_logits=self.mask_logits.to(device),
        )


_Made = TypeVar("_Made")

_Result = tuple[int, dict[str, Any]]
"""The identity of an image's row, and the columns that segmenting fills in."""


class Segmenter:
    """A model on a device, from blocks of pixels to rows of segments."""

    def __init__(
        self,
        *,
        model_files: Callable[[], ModelFiles],
        settings: SegmentSettings,
        num_threads: int | None = None,
        gpu_share: float = 1.0,
        num_whole_instances: int | None = None,
    ) -> None:
        """`num_whole_instances` is how many of an image's best instances are told of beside its
        rows, as AP is published of them; None for none. For the task instance."""
        keep_memory()
        # One thread of arithmetic beside the model's: with more the two would fight for the cores.
        self._finisher = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        compiling = self._finisher.submit(_compile)
        self._settings = settings
        self._num_threads = num_threads or torch.get_num_threads()
        self._num_whole = num_whole_instances
        self._dtype = _DTYPES[settings.precision]
        self._model, self._processor = load_model(model_files(), settings=settings)
        self._device = self._model.device
        self._batch_pixels = settings.batch_pixels or _pixels_at_once(self._device, share=gpu_share)
        self._labels = self._model.config.id2label
        self._model_is_free = threading.Lock()
        compiling.result()

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        images = [_image(row) for row in rows if row["pixels"] is not None]
        finishing: list[Future[list[_Result]]] = []
        with self._model_is_free, torch.inference_mode():
            for batch in self._batches(images):
                finishing += self._begin(batch)
        seconds = self._settings.segment_seconds * max(1, len(images))
        results = dict(result for future in finishing for result in _ended(future, seconds=seconds))
        schema = ROWS if self._num_whole is None else ROWS.append(WHOLE_INSTANCES)
        return segmented_rows(rows, [results.get(id(row)) for row in rows], schema=schema)

    def _batches(self, images: list[_Image]) -> Iterator[list[_Image]]:
        """Images of one padded size together, as many as the bound on pixels lets in."""
        by_size: dict[tuple[int, int], list[_Image]] = defaultdict(list)
        for image in images:
            by_size[self._processor.padded_size(image.pixels.shape[:2])].append(image)
        for (height, width), group in by_size.items():
            while group:
                count = max(1, self._batch_pixels // (height * width))
                yield group[:count]
                group = group[count:]

    def _begin(self, batch: list[_Image]) -> "list[Future[list[_Result]]]":
        """The model's part, with the rest under way; in halves where there is no memory."""
        masks = self._masks_if_they_fit(batch)
        if masks is not None:
            return [self._finisher.submit(self._finish, masks)]
        if len(batch) > 1:
            half = len(batch) // 2
            height, width = self._processor.padded_size(batch[0].pixels.shape[:2])
            self._batch_pixels = half * height * width  # of batches to come
            return [*self._begin(batch[:half]), *self._begin(batch[half:])]
        columns = self._in_little_memory(batch[0])
        return [self._finisher.submit(lambda: [(id(batch[0].row), columns)])]

    def _masks_if_they_fit(self, batch: list[_Image]) -> list[_Masks] | None:
        try:
            with time_limit(self._settings.segment_seconds * len(batch)):
                return self._masks(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # out here, where the error no longer holds what was computed
        return None

    def _in_little_memory(self, image: _Image) -> dict[str, Any]:
        """The columns of an image that does not fit, by the policy; else those of the error."""
        if self._settings.out_of_memory == "shrink":
            for pixels in shrunk(image.pixels):
                masks = self._masks_if_they_fit([replace(image, pixels=pixels)])
                if masks is not None:
                    return self._segments(masks[0])
        if self._settings.out_of_memory == "tile":
            for grid in grids(image.pixels.shape[:2]):
                seen = self._seen_in_tiles(image.pixels, grid)
                if seen is not None:
                    return self._columns(enlarged(seen, size=image.size), size=image.size)
        height, width = image.pixels.shape[:2]
        return _error(
            "SegmenterOutOfMemory",
            f"{image.row['uri']}: the model has no memory for {height} x {width} pixels; see "
            "out_of_memory",
        )

    def _seen_in_tiles(
        self, pixels: np.ndarray, grid: list[tuple[Span, Span]]
    ) -> Segmentation | None:
        """The image's segments, joined from those of its parts; None where these do not fit."""
        fused = self._labels if self._settings.task == "semantic" else ()
        stitcher = Stitcher(
            (pixels.shape[0], pixels.shape[1]),
            label_ids_to_fuse=fused or self._settings.resolved.label_ids_to_fuse,
        )
        for rows, columns in grid:
            part = np.ascontiguousarray(
                pixels[rows.start : rows.stop, columns.start : columns.stop]
            )
            size = {"height": part.shape[0], "width": part.shape[1]}
            masks = self._masks_if_they_fit([_Image(row=size, pixels=part)])
            if masks is None:
                return None
            stitcher.add(self._segmented_somewhere(masks[0]), rows=rows, columns=columns)
        return stitcher.joined()

    def _masks(self, batch: list[_Image]) -> list[_Masks]:
        """The model's part: the class head first, then masks of the queries that can be kept."""
        if torch.get_num_threads() != self._num_threads:  # it is each thread's own
            torch.set_num_threads(self._num_threads)
        pixel_values = self._pixel_values(batch)
        decoding = self._model.decode_queries(pixel_values)
        class_logits = decoding.class_queries_logits.float()
        # The one wait for the device: which queries are kept decides what is computed next.
        kept = [self._kept(logits) for logits in class_logits.cpu()]
        all_queries = torch.arange(class_logits.shape[1])
        mask_logits = self._model.kept_masks(
            decoding, [all_queries if each is None else each.queries for each in kept]
        )
        padded_size = pixel_values.shape[2], pixel_values.shape[3]
        return [
            _Masks(
                image=image,
                kept=kept[index],
                class_logits=class_logits[index],
                mask_logits=mask_logits[index],
                padded_size=padded_size,
            )
            for index, image in enumerate(batch)
        ]

    def _pixel_values(self, batch: list[_Image]) -> Tensor:
        sizes = {image.pixels.shape for image in batch}
        groups = [batch] if len(sizes) == 1 else [[image] for image in batch]
        return torch.cat(
            [
                self._processor.normalize(
                    torch.from_numpy(np.stack([image.pixels for image in group])).to(
                        self._device, non_blocking=True
                    ),
                    dtype=self._dtype,
                )
                for group in groups
            ]
        )

    def _kept(self, class_logits: Tensor) -> KeptQueries | None:
        """The queries that can become segments; None where all take part (semantic)."""
        if self._settings.task == "panoptic":
            return keep_panoptic(class_logits, threshold=self._settings.resolved.threshold)
        if self._settings.task == "instance" and self._num_whole is not None:
            most = max(self._num_whole, len(class_logits))
            return keep_instance(class_logits, threshold=0.0, most=most)
        if self._settings.task == "instance":
            return keep_instance(class_logits, threshold=self._settings.resolved.threshold)
        return None

    @torch.inference_mode()
    def _finish(self, batch: list[_Masks]) -> list[_Result]:
        """Results by the identity of the row that each belongs to."""
        return [(id(masks.image.row), self._segments(masks)) for masks in batch]

    def _segments(self, masks: _Masks) -> dict[str, Any]:
        if self._num_whole is None:
            return self._columns(self._segmented_somewhere(masks), size=masks.image.size)
        sure = _first_rows(masks, self._num_sure(masks))
        whole = _somewhere(self._whole_instances, _first_rows(masks, self._num_whole))
        columns = self._columns(self._segmented_somewhere(sure), size=masks.image.size)
        return columns | {"whole_instances": [dataclasses.asdict(each) for each in whole]}

    def _num_sure(self, masks: _Masks) -> int:
        """How many of the kept rows there are without whole instances."""
        assert masks.kept is not None
        scores = masks.kept.scores[: len(masks.class_logits)]
        return int((scores >= self._settings.resolved.threshold).sum())

    def _whole_instances(self, masks: _Masks) -> list[WholeInstance]:
        assert masks.kept is not None
        return whole_instances(masks.mask_logits, masks.kept, **self._sizes(masks))

    def _segmented_somewhere(self, masks: _Masks) -> Segmentation:
        return _somewhere(self._segmentation, masks)

    def _sizes(self, masks: _Masks) -> dict[str, Any]:
        """From which size to which masks are resized."""
        image_size = masks.image.pixels.shape[:2]
        is_padded = tuple(image_size) != masks.padded_size
        sizes: dict[str, Any] = {"target_size": masks.image.size}
        if is_padded or self._settings.resize_rule == "detectron2":
            sizes |= {"image_size": tuple(image_size), "padded_size": masks.padded_size}
        return sizes

    def _segmentation(self, masks: _Masks) -> Segmentation:
        settings, sizes = self._settings.resolved, self._sizes(masks)
        if masks.kept is None:
            return semantic_segments(masks.class_logits, masks.mask_logits, **sizes)
        overlap = {
            "mask_threshold": settings.mask_threshold,
            "overlap_mask_area_threshold": settings.overlap_mask_area_threshold,
        }
        if self._settings.task == "instance":
            return instance_segmentation(
                masks.mask_logits, masks.kept, threshold=settings.threshold, **overlap, **sizes
            )
        return panoptic_segmentation(
            masks.mask_logits,
            masks.kept,
            label_ids_to_fuse=settings.label_ids_to_fuse,
            **overlap,
            **sizes,
        )

    def _columns(self, segmentation: Segmentation, *, size: tuple[int, int]) -> dict[str, Any]:
        return segment_columns(
            segmentation,
            size=size,
            settings=self._settings,
            labels=self._labels,
        )


def _first_rows(masks: _Masks, count: int) -> _Masks:
    """The first of the kept rows alone."""
    assert masks.kept is not None
    kept = KeptQueries(
        queries=masks.kept.queries[:count],
        labels=masks.kept.labels[:count],
        scores=masks.kept.scores[:count],
    )
    return replace(masks, kept=kept, mask_logits=masks.mask_logits[:count])


def _somewhere(make: Callable[[_Masks], _Made], masks: _Masks) -> _Made:
    """On the device where the masks are, or where the memory is."""
    try:
        return make(masks)
    except (RuntimeError, MemoryError) as error:
        if masks.mask_logits.device.type == "cpu" or not is_out_of_memory(error):
            raise
    free_memory()
    return make(masks.on(torch.device("cpu")))


def _ended(finishing: "Future[list[_Result]]", *, seconds: float) -> list[_Result]:
    """The results; the process ends without them, as by `time_limit`, which has one thread."""
    try:
        return finishing.result(timeout=seconds)
    except TimeoutError:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os._exit(1)


def _pixels_at_once(device: torch.device, *, share: float) -> int:
    """What a batch may have: one image on a CPU; on a GPU as many as the share has room for."""
    if device.type != "cuda":
        return 1
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(share * memory) // _BYTES_PER_PIXEL_ON_A_GPU


def _compile() -> None:
    """Uses once what is compiled at first use: that is a part of starting up."""
    one = KeptQueries(
        queries=torch.zeros(1).long(), labels=torch.zeros(1).long(), scores=torch.ones(1)
    )
    segmentation = panoptic_segmentation(torch.ones(1, 2, 2), one).segmentation
    encode_segments(segmentation.numpy())


def load_model(
    files: ModelFiles, *, settings: SegmentSettings
) -> tuple[MaskFormerForInstanceSegmentation, MaskFormerImageProcessor]:
    """Model and processor from the files that the driver read: a node needs no copy of its own.

    The model is on the GPU, where there is one.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        model = MaskFormerForInstanceSegmentation.from_pretrained(
            folder, dtype=_DTYPES[settings.precision]
        )
        processor = MaskFormerImageProcessor.from_pretrained(
            folder, resize_rule=settings.resize_rule
        )
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def pixels_of(row: dict[str, Any]) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a row of `loading.BLOCK`."""
    shape = (row["pixels_height"], row["pixels_width"], 3)
    return np.frombuffer(row["pixels"], np.uint8).reshape(shape)


def segment_columns(
    segmentation: Segmentation,
    *,
    size: tuple[int, int],
    settings: SegmentSettings,
    labels: Mapping[int, str],
) -> dict[str, Any]:
    """The columns of `ROWS` that segmenting fills in."""
    shapes = encode_segments(segmentation.segmentation.numpy())
    by_id = {segment.id: segment for segment in segmentation.segments}
    segments = []
    columns = zip(
        shapes.ids.tolist(),
        shapes.areas.tolist(),
        shapes.boxes_xywh.tolist(),
        shapes.rles,
        strict=True,
    )
    for segment_id, area, (x, y, w, h), rle in columns:
        segment = by_id[segment_id]
        segments.append(
            {
                "segment_id": segment_id,
                "label_id": segment.label_id,
                "label": labels[segment.label_id],
                "is_thing": settings.is_thing(segment.label_id),
                "score": segment.score,
                "area": area,
                "bbox_x": x,
                "bbox_y": y,
                "bbox_w": w,
                "bbox_h": h,
                "rle": rle,
            }
        )
    height, width = size
    scores = [segment["score"] for segment in segments]
    return {
        "status": "ok",
        "num_segments": len(segments),
        "coverage": sum(segment["area"] for segment in segments) / (height * width),
        "mean_score": sum(scores) / len(scores) if scores else None,
        "segments": segments,
    }


def segmented_rows(
    rows: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any] | None],
    *,
    schema: pa.Schema = ROWS,
) -> pa.Table:
    """Rows of `loading.BLOCK` with the columns that segmenting fills in; None where it did not."""
    return pa.Table.from_pylist(
        [
            {**_plain(row), **(_no_result(row) if result is None else result)}
            for row, result in zip(rows, results, strict=True)
        ],
        schema=schema,
    )


def _image(row: dict[str, Any]) -> _Image:
    return _Image(row=row, pixels=pixels_of(row))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in ROWS.names}


def _no_result(row: dict[str, Any]) -> dict[str, Any]:
    """Of an image that failed, and of rows that are no image."""
    return _NO_SEGMENTS if row["kind"] == "image" else {}


def _error(error_class: str, message: str) -> dict[str, Any]:
    return {**_NO_SEGMENTS, "error_class": error_class, "error_message": message}
