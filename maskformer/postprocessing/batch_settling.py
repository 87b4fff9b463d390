"""The segments of a batch, on its device: the winner of each pixel and the id of each map.

Takes the logits of all queries; nobody waits for the device. Segments equal those that
`panoptic.py` and `semantic.py` make of each image.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float32, Int16, Int64
from torch import Tensor

from maskformer.postprocessing.batch_argmax import (
    BatchShares,
    KeptMaps,
    argmax_of_batch,
    by_columns,
    shares_of_batch,
)
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes
from maskformer.postprocessing.panoptic import PanopticRule, best_labels
from maskformer.postprocessing.semantic import batch_semantic_scores, semantic_label_sums


@dataclass(frozen=True, kw_only=True)
class SettledBatch:
    """The winner of each pixel of a batch and the segments of its maps, still on the device."""

    winner: Int16[Tensor, " pixels"]
    ids: Int16[Tensor, "batch numbers"]
    """The segment of each map, 0 where it is none; for instances, then 0 for pixels of no map."""

    labels: Int16[Tensor, "batch maps"]
    scores: Float32[Tensor, "batch maps"]
    won: Tensor
    second: "SecondLabels | None" = None
    """None where segments are not those of queries."""


@dataclass(frozen=True, kw_only=True)
class SecondLabels:
    """The best label of each query beside its own, by query: the host puts them in order."""

    labels: Int64[Tensor, "batch queries"]
    scores: Float32[Tensor, "batch queries"]
    """Negative where there is no other label."""

    order: Int64[Tensor, "batch maps"]
    """The query of each map."""


def settle_panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    rule: PanopticRule,
    uses_kernels: bool,
) -> SettledBatch:
    """Assigns each pixel to a query, and queries to segments."""
    best = best_labels(class_logits)
    scores = best.scores
    is_kept = (best.labels != class_logits.shape[-1] - 1) & (scores > rule.threshold)
    # Kept queries first, in their order, without asking how many there are.
    order = (~is_kept).to(torch.uint8).argsort(dim=1, stable=True)
    kept_scores, kept_labels = scores.gather(1, order), best.labels.gather(1, order)
    maps = mask_logits
    if not geometry.is_padded:
        maps = mask_logits.to(torch.float32, copy=True)
        maps = maps.sigmoid_().mul_(scores[:, :, None, None])
    kept = KeptMaps(
        maps=maps,
        order=order,
        num_kept=is_kept.sum(1),
        scores=kept_scores,
        thresholds=kept_scores * rule.mask_threshold,
    )
    found = argmax_of_batch(kept, geometry, sizes, uses_kernels=uses_kernels)
    ids = _segment_ids(
        found.won,
        found.areas,
        is_kept=kept.is_kept,
        labels=kept_labels,
        overlap_mask_area_threshold=rule.overlap_mask_area_threshold,
        is_fused=_is_fused(rule.label_ids_to_fuse, class_logits.shape[-1], class_logits.device),
    )
    return SettledBatch(
        winner=found.winner,
        ids=ids,
        labels=kept_labels.to(torch.int16),
        scores=kept_scores,
        won=found.won,
        second=SecondLabels(labels=best.second_labels, scores=best.second_scores, order=order),
    )


@lru_cache(maxsize=16)
def _is_fused(
    label_ids: frozenset[int], num_labels: int, device: torch.device
) -> Bool[Tensor, " labels"] | None:
    """Tells of each label whether its segments are fused; None where no label's are."""
    if not label_ids:
        return None
    return torch.tensor([label in label_ids for label in range(num_labels)], device=device)


def _segment_ids(
    won: Tensor,
    own: Tensor,
    *,
    is_kept: Bool[Tensor, "batch maps"],
    labels: Int64[Tensor, "batch maps"],
    overlap_mask_area_threshold: float,
    is_fused: Bool[Tensor, " labels"] | None,
) -> Int16[Tensor, "batch maps"]:
    """Returns the segment of each query, 0 where it becomes none, in the order of queries.

    Does what `_settle` of `panoptic.py` does, on the device.
    """
    # In double precision, as Python divides.
    share = won.double() / own.double().clamp(min=1)
    is_segment = is_kept & (won > 0) & (own > 0) & (share >= overlap_mask_area_threshold)
    number = torch.arange(won.shape[1], device=won.device).expand_as(won)
    leader = number
    if is_fused is not None:
        # A fused label's segment is that of the first query that has it.
        shares_segment = is_segment & is_fused[labels]
        first = torch.full((len(won), len(is_fused)), won.shape[1], device=won.device)
        first = first.scatter_reduce(
            1, labels, number.masked_fill(~shares_segment, won.shape[1]), "amin"
        )
        leader = torch.where(shares_segment, first.gather(1, labels), number)
    counted = (is_segment & (leader == number)).cumsum(1)
    return (counted.gather(1, leader) * is_segment).to(torch.int16)


def settle_semantic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    uses_kernels: bool,
) -> SettledBatch:
    """Assigns each pixel to a label; a label that occurs is a segment."""
    if uses_kernels and not geometry.is_padded:
        scores = batch_semantic_scores(class_logits, mask_logits)
        found = shares_of_batch(scores, geometry, sizes)
    else:
        found = _shares_by_image(class_logits, mask_logits, geometry)
    batch_size, num_labels = found.won.shape
    occurs = found.won > 0
    means = (found.share_sums / found.won).float()
    labels = torch.arange(num_labels, dtype=torch.int16, device=occurs.device)
    return SettledBatch(
        winner=found.winner,
        ids=(occurs.cumsum(1) * occurs).to(torch.int16),
        labels=labels.expand(batch_size, num_labels),
        scores=means.clamp(max=1.0),
        won=found.won,
    )


def _shares_by_image(
    class_logits: Tensor, mask_logits: Tensor, geometry: BatchGeometry
) -> BatchShares:
    """Scores labels at the size of the padded network input, which takes an image at a time."""
    sums = [
        semantic_label_sums(classes, masks, image)
        for classes, masks, image in zip(class_logits, mask_logits, geometry.images, strict=True)
    ]
    return BatchShares(
        winner=by_columns([each.labels for each in sums]),
        won=torch.stack([each.areas for each in sums]),
        share_sums=torch.stack([each.share_sums for each in sums]),
    )
