"""Post-processing: one image's class and mask logits to a map of segments.

Takes what the model gives for one image, on any device; the image processor wraps it for batches,
and the batch job calls it directly. What comes out is on the CPU, copied there once.

Each task has two steps. `keep_*` looks at the class logits alone and says which queries can become
segments, so that masks are made for those and no others. `*_segmentation` takes their mask logits,
at the model's quarter resolution, to the target size.

With `image_size` and `padded_size` the masks are resized the published way: logits are enlarged to
the padded network input, the padding is cut off, and what remains is resized to the target. Without
them nothing was padded, and the quarter-resolution probabilities are resized at once, as
transformers does. In all maps 0 is void and segments count from 1.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64, Integer
from torch import Tensor

from maskformer import bilinear
from maskformer.bilinear import CPU, InterpolationGrid
from maskformer.postprocessing.geometry import Crop, Geometry, HeightWidth
from maskformer.postprocessing.mask_argmax import (
    MaskArgmax,
    mask_argmax,
    mask_argmax_at,
    mask_argmax_of,
)

_SCORE_BYTES = 64 << 20
"""Of the scores of all labels at a time: those of most images are within it."""


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


@dataclass(frozen=True, kw_only=True)
class InstanceMasks:
    """The masks of instances, which may overlap, best first; `segments[i]` tells of `masks[i]`."""

    masks: Integer[Tensor, "segments height width"]
    segments: tuple[Segment, ...]


def keep_panoptic(
    class_logits: Float[Tensor, "queries labels_and_null"], *, threshold: float
) -> KeptQueries:
    """The queries whose best class is a label with a probability above `threshold`, in order."""
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
        return _nothing(geometry.target_size)
    outcome = _argmax(
        mask_logits,
        kept.scores.to(mask_logits.device, non_blocking=True),
        geometry,
        mask_threshold=mask_threshold,
        byte_budget=byte_budget,
    )
    winner, won, own, scores, labels, *second = _to_host(
        outcome.winner, outcome.won, outcome.areas, kept.scores, kept.labels, *_second(kept)
    )
    segment_ids, segments = _settle(
        won.tolist(),
        own.tolist(),
        scores=scores.tolist(),
        labels=labels.tolist(),
        second=_pairs(second, count=len(labels)),
        overlap_mask_area_threshold=overlap_mask_area_threshold,
        label_ids_to_fuse=label_ids_to_fuse,
    )
    return Segmentation(segmentation=_relabel(winner, segment_ids), segments=segments)


_Second: TypeAlias = tuple[int, float] | tuple[None, None]
"""A label and its score, or neither."""


def _second(kept: "KeptQueries | _Candidates") -> tuple[Tensor, ...]:
    """The second labels and their scores, if there are any."""
    if kept.second_labels is None or kept.second_scores is None:
        return ()
    return kept.second_labels, kept.second_scores


def _pairs(second: Sequence[Tensor], *, count: int) -> list[_Second]:
    """The second label and score of each row, on the host."""
    if not second:
        return [(None, None)] * count
    labels, scores = (column.tolist() for column in second)
    return [
        (label, score) if score >= 0 else (None, None)
        for label, score in zip(labels, scores, strict=True)
    ]


def _argmax(
    mask_logits: Float[Tensor, "kept height width"],
    scores: Float32[Tensor, " kept"],
    geometry: "Geometry",
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
    second: Sequence[_Second],
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


def keep_instance(
    class_logits: Float[Tensor, "queries labels_and_null"],
    *,
    threshold: float,
    most: int | None = None,
) -> KeptQueries:
    """The pairs of a query and a label with a probability of at least `threshold`, best first.

    At most as many as there are queries, or `most`. Equal ones stand in the order of query, then
    label. An instance's score is its probability times its mask's, so that no other pair can reach
    it.
    """
    num_queries, num_labels = class_logits.shape[0], class_logits.shape[1] - 1
    by_query = class_logits.float().softmax(-1)[:, :-1]
    probabilities = by_query.flatten()
    pairs = (probabilities >= threshold).nonzero().squeeze(1)
    order = probabilities[pairs].argsort(descending=True, stable=True)
    order = order[: num_queries if most is None else most]
    pairs = pairs[order]
    queries, labels = pairs // num_labels, pairs % num_labels
    others = by_query[queries].scatter_(-1, labels[:, None], -1.0)
    second_scores, second_labels = others.max(-1)
    return KeptQueries(
        queries=queries,
        labels=labels,
        scores=probabilities[pairs],
        second_labels=second_labels,
        second_scores=second_scores,
    )


def instance_segmentation(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    target_size: HeightWidth | None = None,
    *,
    threshold: float = 0.5,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    byte_budget: int | None = None,
) -> Segmentation:
    """Assigns each pixel to the best instance whose mask covers it.

    Masks are resized as logits; a pixel is covered where the probability is above
    `mask_threshold`. An instance's score is its class probability times the mean probability in
    its mask at the model's resolution. From the best down, an instance takes its place if the
    pixels that better ones left to it are at least `overlap_mask_area_threshold` of its mask, and
    at least one; otherwise it hides nobody and has no row. Ids follow the scores.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    candidates = _scored_instances(
        mask_logits, kept, geometry, threshold=threshold, mask_threshold=mask_threshold
    )
    if not len(candidates.scores):
        return _nothing(geometry.target_size)
    owner = torch.zeros(geometry.target_size, dtype=torch.int16, device=mask_logits.device)
    is_placed = []
    for rank, mask in enumerate(
        _instance_masks(
            mask_logits,
            candidates,
            geometry,
            mask_threshold=mask_threshold,
            byte_budget=byte_budget,
        ),
        start=1,
    ):
        free = mask & (owner == 0)
        placed = _takes_its_place(free, mask, overlap_mask_area_threshold)
        # A placed instance has pixels of its own; the decision stays on the device.
        placed &= free.any()
        owner.masked_fill_(free & placed, rank)
        is_placed.append(placed)
    owner, placed_flags, scores, labels, *second = _to_host(
        owner,
        torch.stack(is_placed),
        candidates.scores,
        candidates.labels,
        *_second(candidates),
    )
    segments = _ranked_segments(
        placed_flags.tolist(),
        scores.tolist(),
        labels.tolist(),
        second=_pairs(second, count=len(labels)),
    )
    ids = [0, *_ids_in_order(placed_flags.tolist())]
    return Segmentation(segmentation=_relabel(owner, ids), segments=segments)


def instance_masks(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    target_size: HeightWidth | None = None,
    *,
    threshold: float = 0.5,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    byte_budget: int | None = None,
) -> InstanceMasks:
    """The whole masks of the instances of `instance_segmentation`, overlaps and all.

    With an `overlap_mask_area_threshold` of 0, instances that better ones hide entirely are among
    them too.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    candidates = _scored_instances(
        mask_logits, kept, geometry, threshold=threshold, mask_threshold=mask_threshold
    )
    taken = torch.zeros(geometry.target_size, dtype=torch.bool, device=mask_logits.device)
    masks, is_placed = [], []
    for mask in _instance_masks(
        mask_logits, candidates, geometry, mask_threshold=mask_threshold, byte_budget=byte_budget
    ):
        placed = _takes_its_place(mask & ~taken, mask, overlap_mask_area_threshold)
        taken |= mask & placed
        masks.append(mask)
        is_placed.append(placed)
    if not masks:
        return InstanceMasks(
            masks=torch.zeros((0, *geometry.target_size), dtype=torch.uint8), segments=()
        )
    stacked, placed_flags, scores, labels, *second = _to_host(
        torch.stack(masks).to(torch.uint8),
        torch.stack(is_placed),
        candidates.scores,
        candidates.labels,
        *_second(candidates),
    )
    segments = _ranked_segments(
        placed_flags.tolist(),
        scores.tolist(),
        labels.tolist(),
        second=_pairs(second, count=len(labels)),
    )
    return InstanceMasks(masks=stacked[placed_flags.bool()], segments=segments)


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Rows of a `KeptQueries`, best final score first; `rows` says which mask belongs to each."""

    rows: Int64[Tensor, " candidates"]
    labels: Int64[Tensor, " candidates"]
    scores: Float[Tensor, " candidates"]
    second_labels: Int64[Tensor, " candidates"] | None
    second_scores: Float[Tensor, " candidates"] | None


def _scored_instances(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    geometry: "Geometry",
    *,
    threshold: float,
    mask_threshold: float,
) -> _Candidates:
    """The instances whose final score reaches `threshold`, best first, before any is resized."""
    logits = geometry.without_padding(mask_logits).float().flatten(1)
    is_covered = logits > _logit(mask_threshold)
    mask_scores = (logits.sigmoid() * is_covered).sum(1) / (is_covered.sum(1) + 1e-6)
    scores = kept.scores.to(logits.device, non_blocking=True) * mask_scores
    labels = kept.labels.to(logits.device, non_blocking=True)
    rows = (scores >= threshold).nonzero().squeeze(1)
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    second_labels = second_scores = None
    if kept.second_labels is not None and kept.second_scores is not None:
        second_labels = kept.second_labels.to(logits.device, non_blocking=True)[rows]
        # By the same mask as the score, so that the two compare as their probabilities do.
        second_scores = kept.second_scores.to(logits.device, non_blocking=True) * mask_scores
        second_scores = second_scores[rows]
    return _Candidates(
        rows=rows,
        labels=labels[rows],
        scores=scores[rows],
        second_labels=second_labels,
        second_scores=second_scores,
    )


def _instance_masks(
    mask_logits: Float[Tensor, "kept height width"],
    candidates: _Candidates,
    geometry: "Geometry",
    *,
    mask_threshold: float,
    byte_budget: int | None,
) -> Iterator[Tensor]:
    """The candidates' masks at the target size, one after the other, resized some at a time."""
    budget = bilinear.byte_budget_of(mask_logits.device) if byte_budget is None else byte_budget
    for rows in candidates.rows.split(geometry.masks_within(budget)):
        yield from geometry.resized(mask_logits[rows].float()) > _logit(mask_threshold)


def _takes_its_place(free: Tensor, mask: Tensor, overlap_mask_area_threshold: float) -> Tensor:
    """Tells whether enough of a mask is still free; never true of an empty mask."""
    area = mask.sum()
    return (area > 0) & (free.sum().double() >= overlap_mask_area_threshold * area.double())


def _ids_in_order(is_placed: list[bool]) -> list[int]:
    ids, last = [], 0
    for placed in is_placed:
        last += bool(placed)
        ids.append(last if placed else 0)
    return ids


def _ranked_segments(
    is_placed: list[bool], scores: list[float], labels: list[int], *, second: Sequence[_Second]
) -> tuple[Segment, ...]:
    rows = zip(_ids_in_order(is_placed), scores, labels, second, strict=True)
    return tuple(
        Segment(
            id=segment_id,
            label_id=label,
            score=score,
            second_label_id=second_label,
            second_score=second_score,
        )
        for segment_id, score, label, (second_label, second_score) in rows
        if segment_id
    )


def semantic_segmentation(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    byte_budget: int | None = None,
) -> Int64[Tensor, "target_height target_width"]:
    """The label of each pixel: the one whose masks, weighted by its probabilities, sum highest."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    bands = _label_bands(class_logits, mask_logits, geometry, byte_budget=byte_budget)
    return torch.cat([band.labels for band in bands]).long()


def semantic_segments(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    byte_budget: int | None = None,
) -> Segmentation:
    """`semantic_segmentation` as segments, one for each label that occurs, in order of labels.

    A segment's score is the mean over its pixels of its label's share in the sum over all labels.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    sums = semantic_label_sums(class_logits, mask_logits, geometry, byte_budget=byte_budget)
    means = (sums.share_sums / sums.areas).float()
    labels, host_areas, means = _to_host(sums.labels, sums.areas, means)
    ids = _ids_in_order([area > 0 for area in host_areas.tolist()])
    segments = tuple(
        Segment(id=segment_id, label_id=label, score=min(float(means[label]), 1.0))
        for label, segment_id in enumerate(ids)
        if segment_id
    )
    return Segmentation(segmentation=_relabel(labels, ids), segments=segments)


@dataclass(frozen=True, kw_only=True)
class LabelSums:
    """A label map on the masks' device, and sums over each label's pixels."""

    labels: Integer[Tensor, "target_height target_width"]
    areas: Int64[Tensor, " labels"]
    share_sums: Float64[Tensor, " labels"]
    """The sum of the label's shares in the scores of all labels."""


def semantic_label_sums(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    geometry: Geometry,
    *,
    byte_budget: int | None = None,
) -> LabelSums:
    """Returns what `semantic_segments` makes segments of. Does not wait for the device."""
    num_labels = class_logits.shape[-1] - 1
    maps, share_sums = [], torch.zeros(num_labels, dtype=torch.float64, device=mask_logits.device)
    areas = torch.zeros(num_labels, dtype=torch.int64, device=mask_logits.device)
    for band in _label_bands(class_logits, mask_logits, geometry, byte_budget=byte_budget):
        # Not torch.bincount, which waits for the device.
        labels = band.labels.flatten().long()
        share_sums.scatter_add_(0, labels, band.shares().double().flatten())
        areas.scatter_add_(0, labels, torch.ones_like(labels))
        maps.append(band.labels)
    return LabelSums(labels=torch.cat(maps), areas=areas, share_sums=share_sums)


def semantic_scores(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
) -> Float[Tensor, "labels height width"]:
    """Computes each label's score at the resolution of the mask logits: masks times probability."""
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    masks = mask_logits.float().sigmoid()
    return (probabilities.T @ masks.flatten(1)).unflatten(1, mask_logits.shape[1:])


def batch_semantic_scores(
    class_logits: Float[Tensor, "batch queries labels_and_null"],
    mask_logits: Float[Tensor, "batch queries height width"],
) -> Float[Tensor, "batch labels height width"]:
    """Computes `semantic_scores` of each image of a batch.

    On a CPU they are those of each image alone to the last bit, on other devices one product.
    """
    if mask_logits.device != CPU:
        return semantic_scores_at_once(class_logits, mask_logits)
    pairs = zip(class_logits, mask_logits, strict=True)
    return torch.stack([semantic_scores(classes, masks) for classes, masks in pairs])


def semantic_scores_at_once(
    class_logits: Float[Tensor, "batch queries labels_and_null"],
    mask_logits: Float[Tensor, "batch queries height width"],
) -> Float[Tensor, "batch labels height width"]:
    """Computes `semantic_scores` of all images in one product."""
    probabilities = class_logits.float().softmax(-1)[:, :, :-1]
    masks = mask_logits.float().sigmoid()
    return torch.bmm(probabilities.mT, masks.flatten(2)).unflatten(2, mask_logits.shape[2:])


def resized_semantic_scores(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
) -> Float[Tensor, "labels target_height target_width"]:
    """The scores that `semantic_segmentation` compares, on their device: whole, and so large."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    crop = geometry.whole_crop(mask_logits)
    return crop.made_of(semantic_scores(class_logits, crop.maps)).resized()


def semantic_score_crop(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth,
    *,
    rows: slice,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
) -> "Crop":
    """Returns the input of some rows of `resized_semantic_scores`, before it is resized."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    crop = geometry.crop(mask_logits, rows)
    return crop.made_of(semantic_scores(class_logits, crop.maps))


@dataclass(frozen=True, kw_only=True)
class _LabelBand:
    """Some rows of a label map, and the scores that it was made of, before they were resized."""

    labels: Integer[Tensor, "band target_width"]
    scores: Float[Tensor, "labels height width"]
    rows: InterpolationGrid
    columns: InterpolationGrid

    def shares(self) -> Float[Tensor, "band target_width"]:
        """The share of each pixel's label in the sum of all labels' scores there."""
        height, width = self.scores.shape[1:]
        flat_scores = self.scores.flatten()
        first = self.labels.long() * (height * width)
        weight_right, weight_below = self.columns.weight_after, self.rows.weight_after[:, None]

        def line(rows: Tensor) -> Tensor:
            left, right = (
                flat_scores[first + rows[:, None] * width + columns]
                for columns in (self.columns.before, self.columns.after)
            )
            return left * (1 - weight_right) + right * weight_right

        top = line(self.rows.before) * (1 - weight_below) + line(self.rows.after) * weight_below
        total = bilinear.resample(
            self.scores.sum(0, keepdim=True), rows=self.rows, columns=self.columns
        )[0]
        return top / total.clamp_(min=torch.finfo(total.dtype).tiny)


def _label_bands(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    geometry: "Geometry",
    *,
    byte_budget: int | None,
) -> Iterator[_LabelBand]:
    """The label map from top to bottom, in bands within the budget.

    As published, labels are scored at the size of the network input where something was padded.
    """
    budget = _SCORE_BYTES if byte_budget is None else byte_budget
    num_maps = mask_logits.shape[0] + class_logits.shape[1]
    bytes_per_row = (
        4 * num_maps * math.ceil(math.prod(geometry.source_size) / geometry.target_size[0])
    )
    for crop in geometry.crops(mask_logits, bytes_per_row=bytes_per_row, byte_budget=budget):
        scores = semantic_scores(class_logits, crop.maps)
        labels = mask_argmax_at(
            scores, rows=crop.rows, columns=crop.columns, thresholds=None, byte_budget=byte_budget
        ).winner
        # The shares of a pixel take some numbers of 8 bytes.
        for band in bilinear.bands(
            len(labels), bytes_per_row=96 * geometry.target_size[1], byte_budget=budget
        ):
            yield _LabelBand(
                labels=labels[band], scores=scores, rows=crop.rows[band], columns=crop.columns
            )


def _logit(probability: float) -> float:
    """The logit of a probability; infinite at 0 and 1."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


def _to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on the CPU, in one copy of those that were elsewhere."""
    elsewhere = [tensor for tensor in tensors if tensor.device != CPU]
    if not elsewhere:
        return tensors
    flat = torch.cat([tensor.contiguous().view(torch.uint8).flatten() for tensor in elsewhere])
    parts = iter(flat.cpu().split([tensor.numel() * tensor.element_size() for tensor in elsewhere]))
    return tuple(
        tensor
        if tensor.device == CPU
        else next(parts).clone().view(tensor.dtype).view(tensor.shape)
        for tensor in tensors
    )


def _relabel(
    numbers: Integer[Tensor, "height width"], ids: list[int]
) -> Int32[Tensor, "height width"]:
    """The map with each number replaced by its id."""
    return torch.from_numpy(np.take(np.array(ids, np.int32), numbers.numpy(), mode="clip"))


def _nothing(target_size: HeightWidth) -> Segmentation:
    return Segmentation(segmentation=torch.zeros(target_size, dtype=torch.int32), segments=())
