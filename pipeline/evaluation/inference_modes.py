"""Defines the inference modes of an evaluation: test-time augmentation and sliding windows.

`multi_view_segmenter.py` runs them on the actors. Starts without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from maskformer import MODELS, MaskFormerImageProcessor
from pipeline.evaluation.judging import Task
from pipeline.evaluation.settings import InferenceSettings


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
