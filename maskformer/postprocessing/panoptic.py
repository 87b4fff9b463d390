"""Panoptic segments of one image: each pixel goes to the query that is surest of it.

Takes what the model gives for one image, on any device; the image processor wraps it for batches.
What comes out is on the CPU, copied there once. `keep_panoptic` looks at the class logits alone and
says which queries can become segments, so that masks are made for those and no others;
`panoptic_segmentation` takes their mask logits, at the model's quarter resolution, to the target
size.

With `image_size` and `padded_size` the masks are resized the published way: logits are enlarged to
the padded network input, the padding is cut off, and what remains is resized to the target. Without
them nothing was padded, and the quarter-resolution probabilities are resized at once, as
transformers does.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Float32, Int64
from torch import Tensor

from maskformer import bilinear
from maskformer.postprocessing.geometry import Geometry, HeightWidth
from maskformer.postprocessing.host_results import (
    SecondLabel,
    copy_to_host,
    pair_second_labels,
    replace_by_ids,
    second_columns,
)
from maskformer.postprocessing.mask_argmax import MaskArgmax, mask_argmax, mask_argmax_of
from maskformer.postprocessing.segments import KeptQueries, Segment, Segmentation


@dataclass(frozen=True, kw_only=True)
class PanopticRule:
    """Settings by which a query becomes a segment; see `panoptic_segmentation`."""

    threshold: float = 0.5
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8
    label_ids_to_fuse: frozenset[int] = frozenset()


def keep_panoptic(
    class_logits: Float[Tensor, "queries labels_and_null"], *, threshold: float
) -> KeptQueries:
    """Returns the queries whose best class is a label more probable than `threshold`, in order."""
    best = best_labels(class_logits)
    is_label = best.labels != class_logits.shape[-1] - 1
    queries = (is_label & (best.scores > threshold)).nonzero().squeeze(1)
    return KeptQueries(
        queries=queries,
        labels=best.labels[queries],
        scores=best.scores[queries],
        second_labels=best.second_labels[queries],
        second_scores=best.second_scores[queries],
    )


@dataclass(frozen=True, kw_only=True)
class BestLabels:
    """The most probable class of each query, and the most probable label beside it."""

    labels: Int64[Tensor, "*queries"]
    """May be the class of no object, whose number is that of labels."""
    scores: Float32[Tensor, "*queries"]
    second_labels: Int64[Tensor, "*queries"]
    """Never the class of no object."""
    second_scores: Float32[Tensor, "*queries"]
    """Negative where there is no other label."""


def best_labels(class_logits: Float[Tensor, "*queries labels_and_null"]) -> BestLabels:
    """Finds the two most probable labels of each query. Does not wait for the device."""
    probabilities = class_logits.float().softmax(-1)
    scores, labels = probabilities.max(-1)
    probabilities.scatter_(-1, labels[..., None], -1.0)
    second_scores, second_labels = probabilities[..., :-1].max(-1)
    return BestLabels(
        labels=labels, scores=scores, second_labels=second_labels, second_scores=second_scores
    )


def panoptic_segmentation(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] = frozenset(),
    byte_budget: int | None = None,
) -> Segmentation:
    """Assigns each pixel to the query whose mask, times its score, is highest there.

    A query becomes a segment if what it won is at least `overlap_mask_area_threshold` of its own
    mask, where its probability is at least `mask_threshold`. Queries of a label in
    `label_ids_to_fuse` share one segment; its score is their mean, weighted by area.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    if not len(kept.queries):
        return Segmentation.empty(geometry.target_size)
    outcome = _argmax(
        mask_logits,
        kept.scores.to(mask_logits.device, non_blocking=True),
        geometry,
        mask_threshold=mask_threshold,
        byte_budget=byte_budget,
    )
    winner, won, own, scores, labels, *second = copy_to_host(
        outcome.winner, outcome.won, outcome.areas, kept.scores, kept.labels, *second_columns(kept)
    )
    segment_ids, segments = _settle(
        won.tolist(),
        own.tolist(),
        scores=scores.tolist(),
        labels=labels.tolist(),
        second=pair_second_labels(second, count=len(labels)),
        overlap_mask_area_threshold=overlap_mask_area_threshold,
        label_ids_to_fuse=label_ids_to_fuse,
    )
    return Segmentation(segmentation=replace_by_ids(winner, segment_ids), segments=segments)


def _argmax(
    mask_logits: Float[Tensor, "kept height width"],
    scores: Float32[Tensor, " kept"],
    geometry: Geometry,
    *,
    mask_threshold: float,
    byte_budget: int | None,
) -> MaskArgmax:
    """Returns the query of each pixel, and how many pixels each query's own mask has."""
    # A mask and its threshold weigh the same, so that own masks are those without weights.
    thresholds = scores * mask_threshold
    if geometry.image_size is None:
        masks = mask_logits.float().sigmoid().mul_(scores[:, None, None])
        return mask_argmax(
            masks, geometry.target_size, thresholds=thresholds, byte_budget=byte_budget
        )
    budget = bilinear.byte_budget_of(scores.device) if byte_budget is None else byte_budget
    bytes_per_row = 4 * len(scores) * math.ceil(geometry.pixels_per_mask / geometry.target_size[0])
    return MaskArgmax.joined(
        [
            mask_argmax_of(crop.resized().sigmoid_().mul_(scores[:, None, None]), thresholds)
            for crop in geometry.crops(mask_logits, bytes_per_row=bytes_per_row, byte_budget=budget)
        ]
    )


def _settle(
    won_areas: list[int],
    own_areas: list[int],
    *,
    scores: list[float],
    labels: list[int],
    second: Sequence[SecondLabel],
    overlap_mask_area_threshold: float,
    label_ids_to_fuse: Collection[int],
) -> tuple[list[int], tuple[Segment, ...]]:
    """The segment id of each query, 0 where it becomes none, and the segments."""
    segment_ids = [0] * len(labels)
    members: dict[int, list[int]] = {}
    id_of_label: dict[int, int] = {}
    for query, label in enumerate(labels):
        won, own = won_areas[query], own_areas[query]
        if won == 0 or own == 0 or won / own < overlap_mask_area_threshold:
            continue
        segment_id = id_of_label.get(label, len(members) + 1)
        if label in label_ids_to_fuse:
            id_of_label[label] = segment_id
        members.setdefault(segment_id, []).append(query)
        segment_ids[query] = segment_id

    def fused_score(queries: list[int]) -> float:
        area = sum(won_areas[query] for query in queries)
        return sum(scores[query] * won_areas[query] for query in queries) / area

    segments = []
    for segment_id, queries in members.items():
        # The first of those with most pixels.
        second_label, second_score = second[max(queries, key=lambda query: won_areas[query])]
        segments.append(
            Segment(
                id=segment_id,
                label_id=labels[queries[0]],
                score=scores[queries[0]] if len(queries) == 1 else fused_score(queries),
                was_fused=labels[queries[0]] in label_ids_to_fuse,
                second_label_id=second_label,
                second_score=second_score,
            )
        )
    return segment_ids, tuple(segments)
