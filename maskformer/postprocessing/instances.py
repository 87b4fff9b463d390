"""Instances of one image: the best pairs of a query and a label, each with its mask.

Takes what the model gives for one image, on any device, in two steps as `panoptic.py` does, which
says what `image_size` and `padded_size` mean. Masks are resized as logits. What comes out is on the
CPU, copied there once.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maskformer import bilinear
from maskformer.postprocessing.geometry import Geometry, HeightWidth
from maskformer.postprocessing.host_results import (
    copy_to_host,
    ids_in_order,
    pair_second_labels,
    replace_by_ids,
    second_columns,
)
from maskformer.postprocessing.segments import InstanceMasks, KeptQueries, Segment, Segmentation


def keep_instance(
    class_logits: Float[Tensor, "queries labels_and_null"],
    *,
    threshold: float,
    most: int | None = None,
) -> KeptQueries:
    """Returns the pairs of a query and a label that are at least as probable as `threshold`.

    Best first, at most as many as there are queries, or `most`. Equal ones stand in the order of
    query, then label. An instance's score is its probability times its mask's, so that no other
    pair can reach it.
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
        return Segmentation.empty(geometry.target_size)
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
    host_owner, is_kept, segments = _settle_on_host(owner, is_placed, candidates)
    ids = [0, *ids_in_order(is_kept)]
    return Segmentation(segmentation=replace_by_ids(host_owner, ids), segments=segments)


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
    """Returns the whole masks of the instances of `instance_segmentation`, overlaps and all.

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
    stacked, is_kept, segments = _settle_on_host(
        torch.stack(masks).to(torch.uint8), is_placed, candidates
    )
    return InstanceMasks(masks=stacked[torch.tensor(is_kept)], segments=segments)


def _scored_instances(
    mask_logits: Float[Tensor, "kept height width"],
    kept: KeptQueries,
    geometry: Geometry,
    *,
    threshold: float,
    mask_threshold: float,
) -> KeptQueries:
    """Returns the rows whose final score reaches `threshold`, best first, before any is resized.

    Their `queries` are the rows of `mask_logits`.
    """
    logits = geometry.without_padding(mask_logits).float().flatten(1)
    is_covered = logits > logit_of(mask_threshold)
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
    return KeptQueries(
        queries=rows,
        labels=labels[rows],
        scores=scores[rows],
        second_labels=second_labels,
        second_scores=second_scores,
    )


def _instance_masks(
    mask_logits: Float[Tensor, "kept height width"],
    candidates: KeptQueries,
    geometry: Geometry,
    *,
    mask_threshold: float,
    byte_budget: int | None,
) -> Iterator[Tensor]:
    """The candidates' masks at the target size, one after the other, resized some at a time."""
    budget = bilinear.byte_budget_of(mask_logits.device) if byte_budget is None else byte_budget
    for rows in candidates.queries.split(geometry.masks_within(budget)):
        yield from geometry.resized(mask_logits[rows].float()) > logit_of(mask_threshold)


def _takes_its_place(free: Tensor, mask: Tensor, overlap_mask_area_threshold: float) -> Tensor:
    """Tells whether enough of a mask is still free; never true of an empty mask."""
    area = mask.sum()
    return (area > 0) & (free.sum().double() >= overlap_mask_area_threshold * area.double())


def _settle_on_host(
    pixels: Tensor, is_placed: Sequence[Tensor], candidates: KeptQueries
) -> tuple[Tensor, list[bool], tuple[Segment, ...]]:
    """Copies the pixels and what is known of each candidate to the host, in one copy.

    Returns the pixels, which candidates are placed, and the segments of those.
    """
    host_pixels, flags, scores, labels, *second = copy_to_host(
        pixels,
        torch.stack(list(is_placed)),
        candidates.scores,
        candidates.labels,
        *second_columns(candidates),
    )
    is_kept = [bool(flag) for flag in flags.tolist()]
    rows = zip(
        ids_in_order(is_kept),
        scores.tolist(),
        labels.tolist(),
        pair_second_labels(second, count=len(labels)),
        strict=True,
    )
    segments = tuple(
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
    return host_pixels, is_kept, segments


def logit_of(probability: float) -> float:
    """Returns the logit of a probability; infinite at 0 and 1."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))
