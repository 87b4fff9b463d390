"""Defines the settings of an evaluation: predictions, inference mode and output."""

import dataclasses
from dataclasses import dataclass

from pipeline.corpora.settings import ReadSettings
from pipeline.datasets.settings import DatasetSettings
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.bounds import check_at_least
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Predictions to evaluate, and the folder of the results."""

    output: str
    """Folder or prefix for metrics.json and the pictures."""
    model: str | None = None
    """A folder, a name that `maskformer zoo` lists, or a hub id."""
    table: str | None = None
    """Segment table in place of a model: nothing is segmented again."""
    limit: int | None = None
    """Judge only so many images, the first ones."""
    worst_images: int = 8
    """Number of images on the sheet of the worst."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.table is None):
            raise ValueError("give either --model or --table, and not both")
        check_at_least(1, self, "limit", "worst_images")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Views of each image that the model segments; by default the whole image, once."""

    augment: bool = False
    """Segment each image in several sizes, mirrored too, and average. As for results that are
    published "with multi-scale and flip". Semantic only."""
    augmented_short_edges: tuple[int, ...] | None = None
    """Sizes of --augment, in pixels of the short edge. By default those published of a model of the
    zoo, else 0.5, 0.75 and so on to 1.75 of the model's own."""
    augmented_flip: bool = True
    """--augment takes mirror images too."""
    window: tuple[int, int] | None = None
    """Segment larger images window by window; sides in pixels. Not for instance."""
    window_overlap: int | None = None
    """Pixels that neighbouring windows share; by default an eighth of the shorter side."""

    def __post_init__(self) -> None:
        if self.augment and self.window is not None:
            raise ValueError("augment and window exclude each other; leave one out")
        for name, needed in (
            ("augmented_short_edges", "augment"),
            ("augmented_flip", "augment"),
            ("window_overlap", "window"),
        ):
            default = next(f.default for f in dataclasses.fields(self) if f.name == name)
            if getattr(self, name) != default and not getattr(self, needed):
                raise ValueError(f"{name} has no effect without --{needed}; leave it out")
        edges = self.augmented_short_edges
        if edges is not None and not (edges and min(edges) >= 1):
            raise ValueError(f"augmented_short_edges must be sizes of at least 1, got {edges}")
        if self.window is not None and min(self.window) < 2:
            raise ValueError(f"window must have sides of at least 2, got {self.window}")
        if self.window is not None and not 1 <= self.overlap <= min(self.window) // 2:
            raise ValueError(
                f"window_overlap must be 1 to half of the window's shorter side, got "
                f"{self.overlap} for {self.window}"
            )

    @property
    def overlap(self) -> int:
        """Returns the pixels that neighbouring windows share."""
        assert self.window is not None
        eighth = max(1, min(self.window) // 8)
        return eighth if self.window_overlap is None else self.window_overlap


PARTS = (
    EvaluateSettings,
    DatasetSettings,
    SegmentSettings,
    InferenceSettings,
    ReadSettings,
    ActorSettings,
    Storage,
)
"""The parts of an evaluation's settings."""
