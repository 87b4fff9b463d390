"""Evaluates a model in training, as `jobs/evaluate.py` would.

Each worker segments its share of the images with the code that labels corpora, and compares them;
the sums are merged over the workers, so that all have the same score. Beside a GPU that is in the
precision of the training, and in the memory that the training leaves.
"""

import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from PIL import Image

from maskformer import MaskFormerForInstanceSegmentation, MaskFormerImageProcessor
from pipeline.datasets.dataset import LabelledImages
from pipeline.evaluation.instance_ap import NUM_WHOLE_INSTANCES
from pipeline.evaluation.judging import SCORES, Judge
from pipeline.evaluation.loading import ImageLoader
from pipeline.evaluation.matching import match_to_data_labels, stuff_to_fuse
from pipeline.evaluation.scoring import EvaluationSums, Scorer, badness, merge
from pipeline.evaluation.worst import worst_image, worst_sheet
from pipeline.labelling.segmenting.model_loading import ModelInMemory, float32_precision_kept
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import Precision, SegmentSettings
from pipeline.training.settings import OptimisationSettings, Task, ValidationSettings
from pipeline.training.validation_blocks import ValidationBlocks

_BLOCK_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Evaluates a model on a data set; travels to workers by value."""

    dataset: LabelledImages
    judge: Judge
    segmenting: SegmentSettings
    num_drawn: int

    @float32_precision_kept()  # training goes on in its own
    def evaluate(
        self,
        model: MaskFormerForInstanceSegmentation,
        *,
        processor: MaskFormerImageProcessor,
        rank: int,
        world_size: int,
        blocks: ValidationBlocks | None = None,
        precision: Precision = "fp32",
    ) -> "ValidationResult":
        """Evaluates the model, with the same result on all workers; all of them must call it.

        Args:
            blocks: from `self.blocks`, to be taken again; None to load with this process.
            precision: of the arithmetic; see `validation_precision`.

        Raises:
            LabelError: an image or its labels are damaged.
            StorageFault: the storage failed.
        """
        mine = EvaluationSums(metric=self.judge.metric())
        scorer = Scorer(dataset=self.dataset, judge=self.judge, num_worst=self.num_drawn)
        if blocks is None:
            blocks = self.blocks(processor=processor, rank=rank, world_size=world_size)
        segmenter = Segmenter(
            ModelInMemory(model=model, processor=processor),
            settings=replace(self.segmenting, precision=precision),
            gpu_share=free_share(model.device),
            num_whole_instances=NUM_WHOLE_INSTANCES if self.judge.task == "instance" else None,
        )
        for block in blocks:
            [receipt] = scorer(segmenter(block)).to_pylist()
            mine.add(receipt, num_worst=self.num_drawn)
        metric, worst = self.judge.metric(), []
        for other in _of_all(mine, world_size=world_size):
            merge(metric, other.metric)
            worst += other.worst
        computed = metric.compute()
        return ValidationResult(
            score=self.judge.score(metric),
            metrics={k: float(v) for k, v in computed.items() if isinstance(v, (int, float))},
            per_label=_per_label(computed, names=self.judge.labels.names),
            worst=sorted(worst, key=badness)[: self.num_drawn],
        )

    def blocks(
        self,
        *,
        processor: MaskFormerImageProcessor,
        rank: int,
        world_size: int,
        num_processes: int = 0,
    ) -> ValidationBlocks:
        """Returns the images of a worker, as often as they are asked for."""
        return ValidationBlocks(
            ImageLoader(dataset=self.dataset, processor=processor, block_bytes=_BLOCK_BYTES),
            range(rank, len(self.dataset), world_size),
            num_processes=num_processes,
        )

    def picture(self, result: "ValidationResult") -> Image.Image:
        """Draws the worst images: photograph, truth and prediction."""
        return worst_sheet(
            [worst_image(worst, dataset=self.dataset) for worst in result.worst],
            judge=self.judge,
            metric=SCORES[self.judge.task],
        )


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The score and the metrics of a model."""

    score: float
    """The task's main metric: miou, pq or ap."""
    metrics: Mapping[str, float]
    per_label: Mapping[str, float]
    """The main metric by label name; labels that no image shows are missing."""
    worst: list[dict[str, Any]]


def validation_of(
    settings: ValidationSettings,
    *,
    dataset: LabelledImages,
    labels: tuple[str, ...],
    task: Task,
    resize_rule: Literal["transformers", "detectron2"],
) -> Validation:
    """Makes the validation of a model with these labels.

    Raises:
        ValueError: the data has other labels, or a setting has no effect.
    """
    limit = settings.validation_limit
    judge = Judge(
        task=task,
        labels=dataset.labels,
        data_label_of=match_to_data_labels(labels, dataset.labels, task=task),
    )
    stuff = stuff_to_fuse(judge.data_label_of, things=dataset.labels.things)
    return Validation(
        dataset=dataset if limit is None else dataset.first(limit),
        judge=judge,
        segmenting=SegmentSettings(
            task=task,
            threshold=settings.threshold,
            overlap_mask_area_threshold=settings.overlap_mask_area_threshold,
            label_ids_to_fuse=stuff if task == "panoptic" else None,
            resize_rule=resize_rule,
        ),
        num_drawn=settings.drawn_images,
    )


def validation_precision(settings: OptimisationSettings, *, device: torch.device) -> Precision:
    """Returns the precision to validate in: of the training beside a GPU, else fp32.

    fp16 is left out: without its scaled losses a model in training may exceed it.
    """
    if device.type != "cuda":
        return "fp32"
    if settings.precision == "bf16":
        return "bf16"
    return "tf32" if settings.tf32 else "fp32"


def free_share(device: torch.device) -> float:
    """Returns the share of a GPU's memory that is free beside what the training holds."""
    if device.type != "cuda":
        return 1.0
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + cached) / total


def _of_all(mine: EvaluationSums, *, world_size: int) -> Iterator[EvaluationSums]:
    if world_size == 1:
        yield mine
        return
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, pickle.dumps(mine))
    yield from map(pickle.loads, gathered)


def _per_label(computed: Mapping[str, Any], *, names: tuple[str, ...]) -> dict[str, float]:
    lists = ("iou_per_label", "pq_per_label", "ap_per_label")
    [values] = [computed[name] for name in lists if name in computed]
    return {
        name: float(value)
        for name, value in zip(names, values, strict=True)
        if not math.isnan(value)
    }
