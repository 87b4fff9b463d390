"""Defines the settings of labelling: corpus, table and model; task, thresholds and limits."""

from dataclasses import dataclass
from typing import Literal

from pipeline.corpora.settings import ReadSettings
from pipeline.planning.settings import UnitSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.storage import Storage

_DEFAULTS = {"threshold": 0.5, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The corpus to label, the model, and the table for the rows."""

    corpus: str
    """A prefix, tar, Parquet file or manifest (csv, tsv, jsonl or Parquet with a column uri), or a
    pattern as photos/*.jpg or s3://bucket/shards-{000..010}.tar, on a disk or at any fsspec URL."""
    table: str
    """Folder or object-store prefix of the segment table; it is made where there is none."""
    model: str
    """Folder of a model in the transformers format, or its id on the hub."""
    limit: int | None = None
    """Label the first so many images of the corpus only."""
    error_budget: float = 0.1
    """Largest share of images in error with which a run still counts as done, in [0, 1]."""
    dry_run: bool = False
    """Plan, time a few images, say how long the run would take, and write nothing."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if not 0 <= self.error_budget <= 1:
            raise ValueError(f"error_budget must be in [0, 1], got {self.error_budget}")


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """The task, its thresholds, and how the model runs. A table keeps all but those of batches."""

    task: Literal["panoptic", "instance", "semantic"] = "panoptic"
    """panoptic: each pixel in at most one segment, of things and stuff; instance: things, the best
    one wins a pixel; semantic: one segment per label, which covers the image."""
    threshold: float | None = None
    """Lowest score of a segment, in [0, 1]; 0.5. Not for semantic."""
    mask_threshold: float | None = None
    """Lowest probability of a mask's own pixels, in [0, 1]; 0.5. Not for semantic."""
    overlap_mask_area_threshold: float | None = None
    """Least share of its own pixels that a segment must win from others, in [0, 1]; 0.8. Not for
    semantic."""
    label_ids_to_fuse: tuple[int | str, ...] | None = None
    """Labels of stuff, by name or id (sky,ground), or stuff, or none. All segments of such a label
    become one per image, with is_thing=false. `stuff` are all labels that the model or the zoo
    knows to be stuff: the default of a new table; one that is there goes on as it was made.
    Panoptic only."""
    resize_rule: Literal["transformers", "detectron2"] = "transformers"
    """transformers: stretch to a multiple of the divisor; detectron2: pad to it, as published."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the model's weights and activations; fp16 is for GPUs, CPUs emulate it a
    thousand times slower."""
    batch_pixels: int | None = None
    """Most pixels of a batch after resizing; 4 megapixels for each 16 GB of a GPU, one image on a
    CPU."""
    out_of_memory: Literal["record", "shrink", "tile"] = "record"
    """What becomes of one image that the model has no memory for: an error, or, where rows may
    depend on the machine, segments seen at half its size and less, or part by part."""
    segment_seconds: float = 600
    """An image that takes longer in the model, or after it, is an error."""

    def __post_init__(self) -> None:
        for name in _DEFAULTS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
            if value is not None and self.task == "semantic":
                raise ValueError(f"{name} has no effect on the task semantic; leave it out")
        if self.label_ids_to_fuse is not None and self.task != "panoptic":
            raise ValueError(
                f"label_ids_to_fuse has no effect on the task {self.task}; leave it out"
            )
        if self.batch_pixels is not None and self.batch_pixels < 1:
            raise ValueError(f"batch_pixels must be at least 1, got {self.batch_pixels}")
        if self.segment_seconds <= 0:
            raise ValueError(f"segment_seconds must be above 0, got {self.segment_seconds}")

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
