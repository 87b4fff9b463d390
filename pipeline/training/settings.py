"""Settings of training, except for those of augmentation, which are in `recipes.py`.

Starts without torch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.corpora.settings import ReadSettings
from pipeline.datasets.settings import DatasetForm, DatasetSettings
from pipeline.runtime.bounds import check_above_zero, check_at_least, check_shares
from pipeline.storage import Storage
from pipeline.training.recipes import Augmentation

Task = Literal["semantic", "panoptic", "instance"]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Output, seed and checkpoints."""

    output: str
    """Folder or prefix for the model, curves, metrics and checkpoints."""
    seed: int = 0
    """Decides the order of images, their augmentation, dropout and fresh weights."""
    auxiliary_losses: bool = True
    """Take the losses of each decoder layer, as published, not of the last alone."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, which are judged by --validation."""
    keep_checkpoints: int = 2
    """Number of last checkpoints to keep, beside the best."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "checkpoint_every", "keep_checkpoints", "log_every")


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """Weights and architecture to begin with."""

    model: str | None = None
    """Trained MaskFormer to begin with: folder, zoo name or hub id. With --architecture only the
    weights of its backbone, such as ImageNet's, as a file or a name of the hub; --architecture
    alone begins with fresh weights."""
    architecture: str | dict[str, Any] | None = None
    """MaskFormer to build where --model is none: zoo name, config.json or its fields. Fields are
    written {backbone_config: {...}, decoder_config: {...}}."""
    image_processor: dict[str, Any] | None = None
    """Settings of preprocessor_config.json that differ from the model's: {image_mean: [...]}."""
    licence: str | None = None
    """Licence of the weights to begin with, for the model card."""

    def __post_init__(self) -> None:
        if self.model is None and self.architecture is None:
            raise ValueError(
                "--model must name what to begin with, or --architecture what to build afresh"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSets(DatasetForm):
    """Labelled images to learn from; what is not given is found out."""

    dataset: tuple[str, ...] | str
    """Labelled images: COCO JSON, folder, tars, Parquet or segment table. COCO's JSON may be
    panoptic or instances; a folder or prefix has photographs with label maps, tars or Parquet
    files; a pattern (train-*.tar) takes some of a folder's. On a disk, or at any URL that fsspec
    knows. Several, with spaces between them, are mixed: their labels are joined by name, and
    further settings are for all of them."""
    dataset_weights: tuple[float, ...] | None = None
    """Shares of the images of each data set among those learnt from, as 0.7 0.3. By default each
    image is learnt equally often."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.dataset, str) and len(self.dataset) == 1:
            object.__setattr__(self, "dataset", self.dataset[0])
        if not self.datasets:
            raise ValueError("dataset must name labelled images, got none")
        if self.dataset_weights is not None and len(self.datasets) == 1:
            raise ValueError("dataset_weights has no effect on a single --dataset; leave it out")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Returns the locations of all data sets."""
        return (self.dataset,) if isinstance(self.dataset, str) else self.dataset

    def settings_of(self, dataset: str, **changes: Any) -> DatasetSettings:
        """Returns the settings of one data set."""
        form = {f.name: getattr(self, f.name) for f in dataclasses.fields(DatasetForm)}
        return DatasetSettings(**{**form, "dataset": dataset, **changes})


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Masks to learn from the labels."""

    task: Task | None = None
    """Kind of masks; by default the most detailed that the labels give. semantic: one for each
    label in an image; panoptic: for each segment; instance: for each thing."""
    ignore_void: bool = False
    """Pixels without a label, crowds and padding count for nothing. Else they are outside of every
    mask, as published."""


@dataclass(frozen=True, kw_only=True)
class OptimisationSettings:
    """Steps, learning rates and precision of AdamW."""

    num_steps: int = 10_000
    """Number of steps; each takes one batch."""
    batch_size: int = 16
    """Images of a step, on all workers together."""
    micro_batches: int = 1
    """Parts of a worker's batch: less memory, same result."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Weight decay; norms, embeddings and tables of positions have none."""
    backbone_rate: float = 0.1
    """Learning rate of the backbone as a share of the rest's."""
    schedule: Literal["polynomial", "steps"] = "polynomial"
    """Decay of the learning rate. polynomial: (1 - step / num_steps) ** power; steps: to a tenth at
    each of --decay_steps."""
    power: float = 0.9
    """Exponent of the polynomial schedule."""
    decay_steps: tuple[int, ...] = ()
    """Steps at which the rate falls to a tenth, with --schedule steps."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its value."""
    warmup_share: float = 1e-6
    """Share of the rate that the warm-up begins with."""
    clip_norm: float | None = 0.01
    """Longest gradient of the whole model; longer ones are shortened to it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of arithmetic; weights and losses stay float32. fp16 scales its losses, and
    is for GPUs."""
    average_decay: float | None = None
    """Keep a moving average of the weights with this share of the old, as 0.9999. The average is
    evaluated and delivered."""
    non_finite: Literal["raise", "skip"] = "raise"
    """On a step whose gradient is not finite: stop the run, or skip the step."""
    frozen_weights: tuple[str, ...] = ()
    """Shell patterns of weights that stay as they are, by their names in the model's file. The
    first stage of a Swin: model.pixel_level_module.encoder.model.encoder.layers.0.*"""
    batch_norm: Literal["as_built", "frozen", "synchronised"] = "as_built"
    """Statistics of batch norm. as_built: of each worker's images, unless the model's configuration
    froze it; frozen: nothing of it changes; synchronised: of the images of all workers, on GPUs."""
    gradient_checkpointing: bool = False
    """Keep nothing of the inside of the backbone's blocks for the backward pass, which computes it
    again: larger models and batches fit, and a step takes longer."""
    compile: bool = False
    """Compile the model, block by block (torch.compile): a slow start, and faster steps on GPUs.
    Batches of many sizes are padded to multiples of 64, so that sizes come again."""
    tf32: bool = False
    """Let GPUs round the factors of float32 products and convolutions to 10 bits (TF32): faster;
    without it what is float32 is exact."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "num_steps", "batch_size", "micro_batches")
        check_above_zero(self, "learning_rate", "clip_norm")
        check_at_least(0, self, "weight_decay", "backbone_rate", "warmup_steps", "power")
        check_shares(self, "warmup_share", "average_decay")
        if bool(self.decay_steps) != (self.schedule == "steps"):
            raise ValueError(
                "decay_steps belong to the schedule steps, and to no other: "
                f"got {list(self.decay_steps)} with {self.schedule}"
            )
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            raise ValueError(f"decay_steps must rise, got {list(self.decay_steps)}")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Images and thresholds by which checkpoints are judged."""

    validation: str | None = None
    """Labelled images to judge by, as for --dataset. Without them the last checkpoint is delivered,
    not the best."""
    validation_images: str | None = None
    """Folder of their photographs, as --images."""
    validation_maps: str | None = None
    """Folder of their label maps, as --maps."""
    validation_limit: int | None = None
    """Judge by only so many of them, the first ones."""
    threshold: float | None = None
    """Lowest score of a segment, as for labelling. Not for semantic."""
    overlap_mask_area_threshold: float | None = None
    """Least share of its mask that a segment must win, as for labelling. Not for semantic."""
    drawn_images: int = 4
    """Number of worst images that are drawn for TensorBoard."""

    def __post_init__(self) -> None:
        check_above_zero(self, "validation_limit")
        check_at_least(0, self, "drawn_images")
        if self.validation is None:  # thresholds may be there all the same: recipes have them
            for name in ("validation_images", "validation_maps", "validation_limit"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without --validation; leave it out")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Processes that train; none of these changes what comes out."""

    num_workers: int = 1
    """Processes that share each step's images; one for each GPU."""
    worker_cpus: float | None = None
    """CPUs that a worker reserves; by default 1 beside a GPU, else its share of the cluster's."""
    loader_processes: int | None = None
    """Processes beside each worker that decode and augment; with 0 the worker does it. By default
    1, and beside GPUs one less than a GPU has cores, from 1 to 8."""
    max_failures: int = 3
    """Number of times that lost workers are started again, from a checkpoint."""
    ray_address: str | None = None
    """Ray cluster; by default RAY_ADDRESS, else this machine alone."""
    dashboard: bool = False
    """Print where Ray's dashboard is; a cluster of this machine has one only then."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "num_workers")
        check_at_least(0, self, "loader_processes", "max_failures")
        check_above_zero(self, "worker_cpus")


PARTS = (
    FinetuneSettings,
    StartSettings,
    TrainingSets,
    TargetSettings,
    Augmentation,
    OptimisationSettings,
    ValidationSettings,
    WorkerSettings,
    ReadSettings,
    Storage,
)
"""The parts of a training run's settings."""
