"""Defines the settings of labelling: corpus, table and model; task, thresholds and limits."""

from dataclasses import dataclass
from typing import Literal

from pipeline.corpora.settings import ReadSettings
from pipeline.planning.settings import UnitSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.bounds import check_above_zero, check_at_least, check_shares
from pipeline.storage import Storage

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Engine = Literal["torch", "onnx"]

_DEFAULTS = {"threshold": 0.5, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Corpus, model and table of a run."""

    corpus: str
    """Images: folder, prefix, tar, Parquet file, manifest or pattern. A manifest is csv, tsv, jsonl
    or Parquet with a column uri; a pattern is photos/*.jpg or s3://bucket/shards-{000..010}.tar. On
    a disk, or at any URL that fsspec knows."""
    table: str
    """Segment table: a folder or prefix, made where there is none."""
    model: str
    """A folder, a name that `maskformer zoo` lists, or a hub id. The files are in the format of
    transformers."""
    limit: int | None = None
    """Label only so many images, the first of the corpus."""
    error_budget: float = 0.1
    """Share of images in error that is tolerated, in [0, 1]. With more the run ends, with exit code
    4; what was labelled stays."""
    expect: str | None = None
    """YAML with rules on coverage, mean_score, errors and shares of labels, checked at the end;
    exit code 3 where one does not hold. See pipeline/labelling/expectations.py."""
    local: bool | None = None
    """Work in processes of this machine, without a Ray cluster, which takes longer to start. By
    default for up to 2,000 images where there is no GPU and nothing asks for a cluster."""
    dry_run: bool = False
    """Plan, time a few images, forecast the run, write nothing."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "limit")
        check_shares(self, "error_budget")


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """Task, thresholds and precision; a table keeps all but those of batches."""

    task: Literal["panoptic", "instance", "semantic"] = "panoptic"
    """Kind of segments. panoptic: things and stuff, each pixel in at most one segment; instance:
    things alone, the best wins a pixel; semantic: one segment per label, which together cover the
    image."""
    threshold: float | None = None
    """Lowest score of a segment, in [0, 1]; usually 0.5. Not for semantic."""
    mask_threshold: float | None = None
    """Lowest probability of a mask's own pixels, in [0, 1]; usually 0.5. Not for semantic."""
    overlap_mask_area_threshold: float | None = None
    """Least share of its mask that a segment must win; usually 0.8. Other segments win the rest of
    its pixels; in [0, 1]. Not for semantic."""
    label_ids_to_fuse: tuple[int | str, ...] | None = None
    """Labels of stuff: names or ids (sky,ground), `stuff` or `none`. All segments of such a label
    become one per image, with is_thing=false. `stuff` means all labels that the model or the zoo
    knows to be stuff, and is the default of a new table; a table that is there goes on as it was
    made. Panoptic only."""
    resize_rule: Literal["transformers", "detectron2"] = "transformers"
    """Rule that makes sides multiples of the model's divisor. transformers: stretch the image;
    detectron2: pad it, as published."""
    precision: Precision = "fp32"
    """Number format of weights and activations. fp32 is exact on any device; tf32 is fp32 whose
    factors a GPU rounds to 10 bits, for speed; fp16 is for GPUs: CPUs emulate it a thousand times
    slower."""
    engine: Engine = "torch"
    """Library that computes the model. torch: on GPUs and CPUs; onnx: ONNX Runtime, for actors on
    CPUs alone, faster for small models (see maskformer/export/README.md). The first run exports the
    model, which takes a minute or more; the graph is kept. A table goes on with its own."""
    batch_pixels: int | None = None
    """Most pixels of a batch after resizing. By default 88 images and up to 131, as far as the GPU
    has memory for them; one image on a CPU."""
    compile_cache: str | None = None
    """Compile the model on GPUs, for the shapes that come most, and keep the compiled code in this
    folder or prefix for the next run. The first run takes minutes longer; rows may differ in the
    last bits of the arithmetic."""
    out_of_memory: Literal["record", "shrink", "tile"] = "record"
    """Result for an image that does not fit into memory. record: an error; shrink: segment it at
    half its size and less; tile: segment it part by part. With the last two, rows may depend on the
    machine."""
    segment_seconds: float = 600
    """An image that takes longer in the model, or after it, is an error."""

    def __post_init__(self) -> None:
        check_shares(self, *_DEFAULTS)
        check_at_least(1, self, "batch_pixels")
        check_above_zero(self, "segment_seconds")
        for name in _DEFAULTS:
            if getattr(self, name) is not None and self.task == "semantic":
                raise ValueError(f"{name} has no effect on the task semantic; leave it out")
        if self.label_ids_to_fuse is not None and self.task != "panoptic":
            raise ValueError(
                f"label_ids_to_fuse has no effect on the task {self.task}; leave it out"
            )
        if self.engine == "onnx" and self.precision != "fp32":
            raise ValueError(
                f"engine onnx computes in fp32 alone, got precision {self.precision}; leave one out"
            )

    def check_actors(self, *, actor_gpus: float) -> None:
        """Raises ValueError where a setting is for other actors: with GPUs, or without."""
        if self.compile_cache is not None and not actor_gpus:
            raise ValueError(
                "--compile_cache needs actors with a GPU (CUDA), and there is none here; "
                "leave it out"
            )
        if self.engine == "onnx" and actor_gpus:
            raise ValueError(
                "--engine onnx is for actors on CPUs, and those of this cluster have GPUs; leave "
                "it out, or add --actor_gpus 0"
            )

    @property
    def resolved(self) -> "ResolvedThresholds":
        """Returns the thresholds, with defaults in place of None."""
        given = {name: getattr(self, name) for name in _DEFAULTS}
        numbers = {k: _DEFAULTS[k] if v is None else v for k, v in given.items()}
        return ResolvedThresholds(**numbers, label_ids_to_fuse=self.fused_ids)

    @property
    def fused_ids(self) -> frozenset[int]:
        """The ids of the labels to fuse, once `labelling/model.py` has put ids for names."""
        ids = [label for label in self.label_ids_to_fuse or () if isinstance(label, int)]
        assert len(ids) == len(self.label_ids_to_fuse or ()), "names need the model's labels"
        return frozenset(ids)

    def is_thing(self, label_id: int) -> bool:
        """Returns whether segments of the label are objects.

        Panoptic: all but fused labels; instance: all; semantic: none, as a region is no object.
        """
        if self.task == "panoptic":
            return label_id not in self.fused_ids
        return self.task == "instance"


@dataclass(frozen=True, kw_only=True)
class ResolvedThresholds:
    """The thresholds of `SegmentSettings` with their defaults."""

    threshold: float
    mask_threshold: float
    overlap_mask_area_threshold: float
    label_ids_to_fuse: frozenset[int]


PARTS = (LabelSettings, SegmentSettings, ReadSettings, UnitSettings, ActorSettings, Storage)
"""The parts of a labelling run's settings."""
