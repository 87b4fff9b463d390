"""Defines the inference modes of an evaluation: test-time augmentation and sliding windows.

`multi_view_segmenter.py` runs them on the actors. Starts without torch.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from maskformer import MODELS, MaskFormerImageProcessor
from pipeline.evaluation.judging import Task


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """The views of each image that the model segments; by default the whole image, once."""

    augment: bool = False
    """Segment each image in several sizes and mirrored, as for results that are published "with
    multi-scale and flip". Semantic only."""
    augmented_short_edges: tuple[int, ...] | None = None
    """Sizes of --augment; as published for a model of the zoo, else 0.5, 0.75 and so on to 1.75
    times the model's own."""
    augmented_flip: bool = True
    """Whether --augment segments mirror images too."""
    window: tuple[int, int] | None = None
    """Height and width of windows, in pixels of the image: larger images go through the model part
    by part. Not for instance."""
    window_overlap: int | None = None
    """Pixels that neighbouring windows share; an eighth of the shorter side."""

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


@dataclass(frozen=True, kw_only=True)
class MultiScale:
    """The sizes of test-time augmentation, and whether mirror images are added."""

    short_edges: Sequence[int] | None
    """None for multiples of the model's own."""
    longest_edge: int | None
    """None for a multiple of the model's short edge."""
    flip: bool


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """The size and overlap of windows, which are segmented one by one."""

    size: tuple[int, int]
    overlap: int


InferenceMode: TypeAlias = MultiScale | SlidingWindow


def inference_mode(
    settings: InferenceSettings, *, model: str, processor: MaskFormerImageProcessor, task: Task
) -> InferenceMode | None:
    """Returns the mode that the settings ask for; None for the whole image, once.

    Raises:
        ValueError: the task or the model does not work in that mode.
    """
    if settings.window is not None:
        if task == "instance":
            raise ValueError("window is for --task semantic or panoptic, got instance")
        return SlidingWindow(size=settings.window, overlap=settings.overlap)
    if not settings.augment:
        return None
    if task != "semantic":
        raise ValueError(f"augment is for --task semantic, as published, got {task}")
    if not processor.do_resize or "shortest_edge" not in processor.size:
        raise ValueError(
            f"augment resizes to a shortest edge, and the image processor of {model} has "
            f"do_resize={processor.do_resize} and size={processor.size}"
        )
    published = MODELS[model].testing if model in MODELS else None
    edges, longest = settings.augmented_short_edges, None
    if published is not None and published.augmented_short_edges:
        edges, longest = edges or published.augmented_short_edges, published.augmented_max_edge
    return MultiScale(short_edges=edges, longest_edge=longest, flip=settings.augmented_flip)
