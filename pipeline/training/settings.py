"""Settings of training, except for those of augmentation, which are in `recipes.py`.

Starts without torch.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.corpora.settings import ReadSettings
from pipeline.datasets.settings import DatasetSettings
from pipeline.storage import Storage
from pipeline.training.recipes import Augmentation

Task = Literal["semantic", "panoptic", "instance"]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """The output of fine-tuning, and how often a run writes to it."""

    output: str
    """Folder or object-store prefix: the model, its card and curves, metrics and checkpoints."""
    seed: int = 0
    """Seeds the order of images, their augmentation, dropout and new weights."""
    auxiliary_losses: bool = True
    """Losses of each decoder layer, as published, instead of the last alone."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, which are judged by --validation."""
    keep_checkpoints: int = 2
    """The number of last checkpoints that are kept, beside the best."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """The model that training begins with."""

    model: str | None = None
    """A trained MaskFormer: a folder, a name of the zoo or the hub. With `architecture` only the
    weights of its backbone: ImageNet's, say, as a file or a name of the hub; None for none."""
    architecture: str | dict[str, Any] | None = None
    """The MaskFormer that is built where `model` is no whole one: a name of the zoo, a config.json,
    or its fields, as {backbone_config: {...}, decoder_config: {...}}."""
    image_processor: dict[str, Any] | None = None
    """Settings of preprocessor_config.json that differ from the model's: {image_mean: [...]}."""
    licence: str | None = None
    """The licence of the weights that training begins with, for the model card."""

    def __post_init__(self) -> None:
        if self.model is None and self.architecture is None:
            raise ValueError(
                "--model must name what to begin with, or --architecture what to build afresh"
            )


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """The task, and the treatment of pixels without a label."""

    task: Task | None = None
    """A mask for each label in an image (semantic), for each segment (panoptic), or for each thing
    (instance); what the labels tell at most where null."""
    ignore_void: bool = False
    """Pixels without a label, crowds and padding count for nothing; else they are outside of every
    mask, as published."""


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings:
    """AdamW as published, over steps of one batch of the whole cluster each."""

    num_steps: int = 10_000
    """Steps in all."""
    batch_size: int = 16
    """Images of a step, on all workers together; more workers have fewer each."""
    micro_batches: int = 1
    """Pieces in which a worker does its images of a step, for less memory and the same result."""
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    """Not of norms, embeddings and tables of positions, which have none."""
    backbone_rate: float = 0.1
    """The backbone's learning rate as a share of the rest's."""
    schedule: Literal["polynomial", "steps"] = "polynomial"
    """polynomial: (1 - step / num_steps) ** power; steps: a tenth from each of `decay_steps` on."""
    power: float = 0.9
    """Of the polynomial."""
    decay_steps: tuple[int, ...] = ()
    """Where the rate falls to a tenth, with the schedule steps."""
    warmup_steps: int = 0
    """Steps over which the rate rises to its value in a line."""
    warmup_share: float = 1e-6
    """The share of the rate that the rise begins with."""
    clip_norm: float | None = 0.01
    """Longest gradient of the whole model; longer ones are shortened to it. None for no bound."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic; weights and losses stay float32. fp16 scales its losses; for GPUs."""
    average_decay: float | None = None
    """Keep a moving average of the weights with this share of the old, as 0.9999, and evaluate and
    deliver that; None for none."""
    non_finite: Literal["raise", "skip"] = "raise"
    """On a step whose gradient is not finite: stop the run, or leave the step out."""
    frozen_weights: tuple[str, ...] = ()
    """Shell patterns of weights that stay as they are, by the names in the model's file. The first
    stage of a Swin: model.pixel_level_module.encoder.model.encoder.layers.0.*"""
    batch_norm: Literal["as_built", "frozen", "synchronised"] = "as_built"
    """as_built: each worker's images, unless the model's own configuration froze it; frozen:
    nothing of it changes; synchronised: the images of all workers, on GPUs."""
    compile: bool = False
    """Compile the model (torch.compile): a slow start, and faster steps on GPUs."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "backbone_rate", "warmup_steps", "power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("warmup_share", "average_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if bool(self.decay_steps) != (self.schedule == "steps"):
            raise ValueError(
                "decay_steps belong to the schedule steps, and to no other: "
                f"got {list(self.decay_steps)} with {self.schedule}"
            )
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            raise ValueError(f"decay_steps must rise, got {list(self.decay_steps)}")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """The data and the settings by which each checkpoint is evaluated."""

    validation: str | None = None
    """Labelled images as --dataset takes them; None for no validation, and the last checkpoint is
    the best."""
    validation_images: str | None = None
    """The folder of their photographs, as --images."""
    validation_maps: str | None = None
    """The folder of their maps, as --maps."""
    validation_limit: int | None = None
    """Evaluate on the first so many of them only."""
    threshold: float | None = None
    """Lowest score of a segment, as for labelling. Not for semantic."""
    overlap_mask_area_threshold: float | None = None
    """As for labelling. Not for semantic."""
    drawn_images: int = 4
    """The number of worst images that are drawn for TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("validation_limit", "drawn_images"):
            value = getattr(self, name)
            if value is not None and value < (name == "validation_limit"):
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.validation is None:
            for name in ("validation_images", "validation_maps", "validation_limit", "threshold",
                         "overlap_mask_area_threshold"):  # fmt: skip
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without --validation; leave it out")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The processes that train. No setting here changes the result."""

    num_workers: int = 1
    """Processes that share the images of each step; one for each GPU."""
    worker_cpus: float | None = None
    """CPUs that a worker reserves; 1 beside a GPU, else its share of what the cluster has."""
    loader_processes: int = 1
    """Processes beside each worker that decode and augment; with 0 the worker does it itself."""
    max_failures: int = 3
    """Restarts of the workers, from the last checkpoint, before the run gives up."""
    ray_address: str | None = None
    """Cluster to work on; RAY_ADDRESS, or one that is started on this machine for the run."""
    dashboard: bool = False
    """Prints where Ray's dashboard is; a cluster that is started here has one only then."""

    def __post_init__(self) -> None:
        for name, least in (("num_workers", 1), ("loader_processes", 0), ("max_failures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.worker_cpus is not None and not self.worker_cpus > 0:
            raise ValueError(f"worker_cpus must be above 0, got {self.worker_cpus}")


PARTS = (
    FinetuneSettings,
    StartSettings,
    DatasetSettings,
    TargetSettings,
    Augmentation,
    OptimisationSettings,
    ValidationSettings,
    WorkerSettings,
    ReadSettings,
    Storage,
)
"""The parts of a training run's settings."""
