"""Data of post-processing: the queries that may become segments, segments, and maps of them.

In all maps 0 is void and segments count from 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64, Integer
from torch import Tensor

from maskformer.postprocessing.geometry import HeightWidth


@dataclass(frozen=True, kw_only=True)
class KeptQueries:
    """The queries of one image that may become segments, with a label and its probability each.

    For instances a query can stand in several rows, with a label each. May be on the CPU while
    masks are elsewhere.
    """

    queries: Int64[Tensor, " kept"]
    labels: Int64[Tensor, " kept"]
    scores: Float[Tensor, " kept"]
    second_labels: Int64[Tensor, " kept"] | None = None
    """The query's most probable label beside the one in `labels`; None where it is not wanted."""

    second_scores: Float[Tensor, " kept"] | None = None
    """Its probability; negative where there is no other label."""

    def first(self, count: int) -> "KeptQueries":
        """The first `count` rows."""
        labels, scores = self.second_labels, self.second_scores
        return KeptQueries(
            queries=self.queries[:count],
            labels=self.labels[:count],
            scores=self.scores[:count],
            second_labels=None if labels is None else labels[:count],
            second_scores=None if scores is None else scores[:count],
        )


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment of a map."""

    id: int
    label_id: int
    score: float
    was_fused: bool = False
    second_label_id: int | None = None
    """The most probable label of its query beside `label_id`, None where there is none.

    Of several queries in one segment that of the one with most of its pixels; a semantic segment
    is not a query's."""

    second_score: float | None = None
    """Its score, on the scale of `score`."""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A map of segment ids, 0 where there is none, and the segments in the order of their ids."""

    segmentation: Int32[Tensor, "height width"]
    segments: tuple[Segment, ...]

    @classmethod
    def empty(cls, size: HeightWidth) -> "Segmentation":
        """Returns a map without segments."""
        return cls(segmentation=torch.zeros(size, dtype=torch.int32), segments=())


@dataclass(frozen=True, kw_only=True)
class InstanceMasks:
    """The masks of instances, which may overlap, best first; `segments[i]` tells of `masks[i]`."""

    masks: Integer[Tensor, "segments height width"]
    segments: tuple[Segment, ...]
