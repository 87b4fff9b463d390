"""Segments one batch of images: through the model, then through post-processing.

`segmenter.py` makes the batches, of one padded size each, and decides what to do where the device
has no memory for one. Here a batch fits or an error is raised.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from maskformer import (
    BatchPostprocessor,
    KeptQueries,
    PendingSegments,
    Segmentation,
    WholeInstance,
    encode_segmentation,
    instance_segmentation,
    keep_instance,
    keep_panoptic,
    panoptic_segmentation,
    semantic_segments,
    whole_instances,
)
from pipeline.labelling.segmenting.compiled_model import (
    CodeCache,
    CompiledModel,
    Logits,
    logits_of,
)
from pipeline.labelling.segmenting.little_memory import free_memory, is_out_of_memory
from pipeline.labelling.segmenting.model_inputs import LoadedImage, ModelInputs
from pipeline.labelling.segmenting.model_loading import DTYPES, ModelSource, load_engine
from pipeline.labelling.segmenting.segmented_rows import SegmentedImages
from pipeline.labelling.settings import SegmentSettings
from pipeline.storage import Storage

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The model's output for one image: the kept queries and their mask logits."""

    image: LoadedImage
    kept: KeptQueries | None
    """None where all queries take part (semantic)."""
    class_logits: Tensor
    mask_logits: Tensor
    padded_size: tuple[int, int]

    def on(self, device: torch.device) -> "Prediction":
        return replace(
            self,
            class_logits=self.class_logits.to(device),
            mask_logits=self.mask_logits.to(device),
        )

    def first(self, count: int) -> "Prediction":
        """Returns the prediction with the first `count` kept queries alone."""
        assert self.kept is not None
        return replace(self, kept=self.kept.first(count), mask_logits=self.mask_logits[:count])


class BatchSegmenter:
    """A model on a device, with the post-processing that the settings ask for."""

    def __init__(
        self,
        model_files: ModelSource,
        *,
        settings: SegmentSettings,
        num_threads: int | None = None,
        num_whole_instances: int | None = None,
        storage: Storage | None = None,
    ) -> None:
        """Loads the model; see `Segmenter`."""
        self._num_threads = num_threads or torch.get_num_threads()
        self.model, self.processor = load_engine(
            model_files, settings=settings, num_threads=self._num_threads
        )
        self.labels = self.model.config.id2label
        self._settings = settings
        self.model_inputs = ModelInputs(
            self.processor, device=self.model.device, dtype=DTYPES[settings.precision]
        )
        self._num_whole = num_whole_instances
        self._logits: Callable[[Tensor], Logits] = partial(logits_of, self.model)
        if settings.compile_cache is not None and self.can_start:
            self._logits = CompiledModel(
                self.model,
                cache=CodeCache.of(
                    settings.compile_cache,
                    storage=storage or Storage(),
                    config=self.model.config.to_json_string().encode(),
                    precision=settings.precision,
                ),
            )
        is_cuda = self.model.device.type == "cuda"
        # Its kernels go before those of the next batch's model, which is launched already.
        self._stream = torch.cuda.Stream(self.model.device, priority=-1) if is_cuda else None
        thresholds = settings.resolved
        self._postprocessor = BatchPostprocessor(
            settings.task,
            threshold=thresholds.threshold,
            mask_threshold=thresholds.mask_threshold,
            overlap_mask_area_threshold=thresholds.overlap_mask_area_threshold,
            label_ids_to_fuse=thresholds.label_ids_to_fuse,
        )
        if self.can_start:
            self._postprocessor.prepare(
                self.model.device,
                num_queries=self.model.config.decoder_config.num_queries,
                num_labels=self.model.config.num_labels,
                dtype=DTYPES[settings.precision],
                is_padded=settings.resize_rule == "detectron2",
            )

    def predict(self, batch: Sequence[LoadedImage]) -> list[Prediction]:
        """Runs the model: the class head first, then the masks of the queries that are kept."""
        if torch.get_num_threads() != self._num_threads:  # it is each thread's own
            torch.set_num_threads(self._num_threads)
        pixel_values = self.model_inputs(batch)
        decoding = self.model.decode_queries(pixel_values)
        class_logits = decoding.class_queries_logits.float()
        # The only wait for the device: the kept queries decide what is computed next.
        kept = [self._kept(logits) for logits in class_logits.cpu()]
        all_queries = torch.arange(class_logits.shape[1])
        mask_logits = self.model.kept_masks(
            decoding, [all_queries if each is None else each.queries for each in kept]
        )
        return [
            Prediction(
                image=image,
                kept=kept[index],
                class_logits=class_logits[index],
                mask_logits=mask_logits[index],
                padded_size=(pixel_values.shape[2], pixel_values.shape[3]),
            )
            for index, image in enumerate(batch)
        ]

    @property
    def can_start(self) -> bool:
        """Returns whether `start` does what is wanted, which whole instances are beyond."""
        return self._num_whole is None

    def start(self, batch: Sequence[LoadedImage]) -> PendingSegments:
        """Launches the model and post-processing, and waits for neither.

        On a GPU, post-processing runs on a stream of its own, beside the next batch's model.
        """
        if torch.get_num_threads() != self._num_threads:  # it is each thread's own
            torch.set_num_threads(self._num_threads)
        pixel_values = self.model_inputs(batch)
        logits = self._logits(pixel_values)
        sizes = self._batch_sizes(batch, (pixel_values.shape[2], pixel_values.shape[3]))
        if self._stream is None:
            return self._postprocessor.start(*logits, **sizes)
        self._stream.wait_stream(torch.cuda.current_stream(self.model.device))
        with torch.cuda.stream(self._stream):
            pending = self._postprocessor.start(*logits, **sizes)
        for each in logits:
            # Their memory belongs to the model's stream and is in use on the other.
            each.record_stream(self._stream)
        return pending

    @torch.inference_mode()
    def segmented(self, prediction: Prediction) -> SegmentedImages:
        """Returns the image's segments; with its whole instances, if these are wanted."""
        key = prediction.image.key
        if self._num_whole is None:
            return segmented_image(prediction.image, self.segmentation(prediction))
        rows = self.segmentation(prediction.first(self._num_rows(prediction)))
        whole = _on_device_or_cpu(self._whole_instances, prediction.first(self._num_whole))
        instances = [dataclasses.asdict(each) for each in whole]
        found = segmented_image(prediction.image, rows)
        return replace(found, whole_instances={key: instances})

    def segmentation(self, prediction: Prediction) -> Segmentation:
        """Post-processes on the prediction's device, or on the CPU where that has no memory."""
        return _on_device_or_cpu(self._segmentation, prediction)

    def _kept(self, class_logits: Tensor) -> KeptQueries | None:
        """Returns the queries that can become segments; None where all take part (semantic)."""
        if self._settings.task == "panoptic":
            return keep_panoptic(class_logits, threshold=self._settings.resolved.threshold)
        if self._settings.task == "instance" and self._num_whole is not None:
            most = max(self._num_whole, len(class_logits))
            return keep_instance(class_logits, threshold=0.0, most=most)
        if self._settings.task == "instance":
            return keep_instance(class_logits, threshold=self._settings.resolved.threshold)
        return None

    def _num_rows(self, prediction: Prediction) -> int:
        """Returns how many queries would have been kept if no whole instances were wanted."""
        assert prediction.kept is not None
        scores = prediction.kept.scores[: len(prediction.class_logits)]
        return int((scores >= self._settings.resolved.threshold).sum())

    def _whole_instances(self, prediction: Prediction) -> list[WholeInstance]:
        assert prediction.kept is not None
        return whole_instances(prediction.mask_logits, prediction.kept, **self._sizes(prediction))

    def _segmentation(self, prediction: Prediction) -> Segmentation:
        settings, sizes = self._settings.resolved, self._sizes(prediction)
        if prediction.kept is None:
            return semantic_segments(prediction.class_logits, prediction.mask_logits, **sizes)
        overlap = {
            "mask_threshold": settings.mask_threshold,
            "overlap_mask_area_threshold": settings.overlap_mask_area_threshold,
        }
        if self._settings.task == "instance":
            return instance_segmentation(
                prediction.mask_logits,
                prediction.kept,
                threshold=settings.threshold,
                **overlap,
                **sizes,
            )
        return panoptic_segmentation(
            prediction.mask_logits,
            prediction.kept,
            label_ids_to_fuse=settings.label_ids_to_fuse,
            **overlap,
            **sizes,
        )

    def _sizes(self, prediction: Prediction) -> dict[str, Any]:
        """Returns the sizes between which post-processing resizes the masks."""
        image_size = prediction.image.model_size
        is_padded = image_size != prediction.padded_size
        sizes: dict[str, Any] = {"target_size": prediction.image.size}
        if is_padded or self._settings.resize_rule == "detectron2":
            sizes |= {"image_size": image_size, "padded_size": prediction.padded_size}
        return sizes

    def _batch_sizes(
        self, batch: Sequence[LoadedImage], padded_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Returns `_sizes` of a batch."""
        is_padded = any(image.model_size != padded_size for image in batch)
        sizes: dict[str, Any] = {"target_sizes": [image.size for image in batch]}
        if is_padded or self._settings.resize_rule == "detectron2":
            image_sizes = [image.model_size for image in batch]
            sizes |= {"image_sizes": image_sizes, "padded_size": padded_size}
        return sizes


def segmented_image(image: LoadedImage, segmentation: Segmentation) -> SegmentedImages:
    """Returns the segments of one image."""
    return SegmentedImages(keys=(image.key,), segments=encode_segmentation(segmentation))


def compile_kernels() -> None:
    """Calls once the kernels that are compiled at their first use, while the model is loaded."""
    one = KeptQueries(
        queries=torch.zeros(1).long(), labels=torch.zeros(1).long(), scores=torch.ones(1)
    )
    encode_segmentation(panoptic_segmentation(torch.ones(1, 2, 2), one))


def _on_device_or_cpu(make: Callable[[Prediction], _Made], prediction: Prediction) -> _Made:
    """Calls `make` where the masks are, or on the CPU where their device has no memory for it."""
    try:
        return make(prediction)
    except (RuntimeError, MemoryError) as error:
        if prediction.mask_logits.device.type == "cpu" or not is_out_of_memory(error):
            raise
    free_memory()  # outside the handler, where the error no longer holds tensors
    return make(prediction.on(torch.device("cpu")))
