"""The instances of a batch, on its device: the one that has each pixel, and the id of each.

Does for a batch what `instances.py` does for an image, and nobody waits for the device. An instance
takes its place after all better ones of its image. On CUDA a kernel of `instance_kernels.py` notes
which masks cover each pixel, and another places an image's instances one by one, all images at
once. Plain operations go through the ranks of all images together.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int16, Int64, Integer
from torch import Tensor

from maskformer.device_copies import copied_to
from maskformer.postprocessing.batch_argmax import on_device, plain_groups, programs
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes
from maskformer.postprocessing.batch_settling import SecondLabels, SettledBatch
from maskformer.postprocessing.geometry import Geometry
from maskformer.postprocessing.instances import logit_of


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The pairs of a query and a label that may become instances, those of an image best first."""

    queries: Int64[Tensor, "batch ranks"]
    labels: Int64[Tensor, "batch ranks"]
    scores: Float32[Tensor, "batch ranks"]
    is_candidate: Bool[Tensor, "batch ranks"]
    """True of the first ones of an image; the others are not likely enough."""

    second_labels: Int64[Tensor, "batch ranks"]
    second_scores: Float32[Tensor, "batch ranks"]


@dataclass(frozen=True, kw_only=True)
class _Places:
    """The instance that has each pixel, and what each needs to be placed and finds free."""

    owner: Int16[Tensor, " pixels"]
    """The rank of an instance; the number of ranks where no instance is."""

    needed: Integer[Tensor, "batch ranks"]
    free: Integer[Tensor, "batch ranks"]


def settle_instance(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    uses_kernels: bool,
) -> SettledBatch:
    """Assigns each pixel to the best instance that covers it, as `instance_segmentation` does."""
    found = _candidates(
        class_logits,
        _mask_scores(mask_logits, geometry, mask_threshold=mask_threshold),
        threshold=threshold,
    )
    rule = {"logit": logit_of(mask_threshold), "overlap": overlap_mask_area_threshold}
    if uses_kernels:
        places = _by_kernels(mask_logits, found, geometry, sizes, **rule)
    else:
        places = _by_plain_operations(mask_logits, found, geometry, **rule)
    is_placed = found.is_candidate & (places.free >= places.needed)
    ids = (is_placed.cumsum(1) * is_placed).to(torch.int16)
    ranks = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return SettledBatch(
        winner=places.owner,
        ids=torch.nn.functional.pad(ids, (0, 1)),  # where no instance is
        labels=found.labels.to(torch.int16),
        scores=found.scores,
        won=places.free,
        second=SecondLabels(labels=found.second_labels, scores=found.second_scores, order=ranks),
    )


def _candidates(
    class_logits: Tensor, mask_scores: Float32[Tensor, "batch queries"], *, threshold: float
) -> Candidates:
    """Does what `keep_instance` and the scores of `instance_segmentation` do."""
    num_queries = class_logits.shape[1]
    by_query = class_logits.float().softmax(-1)[..., :-1]
    num_labels = by_query.shape[-1]
    probabilities, pairs = by_query.flatten(1).sort(dim=1, descending=True, stable=True)
    probabilities, pairs = probabilities[:, :num_queries], pairs[:, :num_queries]
    scores = probabilities * mask_scores.gather(1, pairs // num_labels)
    is_candidate = (probabilities >= threshold) & (scores >= threshold)
    best_first = scores.masked_fill(~is_candidate, -math.inf)
    order = best_first.argsort(dim=1, descending=True, stable=True)
    pairs = pairs.gather(1, order)
    queries, labels = pairs // num_labels, pairs % num_labels
    others = by_query.gather(1, queries[..., None].expand(-1, -1, num_labels))
    second_scores, second_labels = others.scatter_(-1, labels[..., None], -1.0).max(-1)
    return Candidates(
        queries=queries,
        labels=labels,
        scores=scores.gather(1, order),
        is_candidate=is_candidate.gather(1, order),
        second_labels=second_labels,
        second_scores=second_scores * mask_scores.gather(1, queries),
    )


def _mask_scores(
    mask_logits: Tensor, geometry: BatchGeometry, *, mask_threshold: float
) -> Float32[Tensor, "batch queries"]:
    """Returns the mean probability in each query's mask, at the masks' own size."""
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(geometry.images):
        by_size[image.unpadded_mask_size].append(index)

    def scores_of(masks: Tensor, height: int, width: int) -> Tensor:
        logits = masks[..., :height, :width].to(torch.float32, copy=True).flatten(2)
        is_covered = logits > logit_of(mask_threshold)
        return logits.sigmoid_().mul_(is_covered).sum(2) / (is_covered.sum(2) + 1e-6)

    if len(by_size) == 1:
        [(height, width)] = by_size
        return scores_of(mask_logits, height, width)
    scores = torch.empty(mask_logits.shape[:2], device=mask_logits.device)
    for (height, width), indices in by_size.items():
        at = copied_to(scores.device, torch.tensor(indices))
        scores.index_copy_(0, at, scores_of(mask_logits.index_select(0, at), height, width))
    return scores


def _needed(areas: Integer[Tensor, "*ranks"], *, overlap: float) -> Integer[Tensor, "*ranks"]:
    """Returns how many pixels of a mask must be free for its instance to be placed."""
    return (overlap * areas.double()).ceil().clamp(min=1).to(areas.dtype)


def _by_kernels(
    mask_logits: Tensor,
    found: Candidates,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    logit: float,
    overlap: float,
) -> _Places:
    from maskformer.postprocessing import batch_kernels, instance_kernels

    note_covers: Any = instance_kernels.note_covers
    place: Any = instance_kernels.place
    batch_size, num_planes, map_height, map_width = mask_logits.shape
    num_ranks = found.queries.shape[1]
    num_pixels, device = int(geometry.pixels.sum()), mask_logits.device
    counts = found.is_candidate.sum(1)
    areas, free = torch.zeros(2, batch_size, num_ranks, dtype=torch.int32, device=device).unbind()
    owner = torch.full((num_pixels,), num_ranks, dtype=torch.int16, device=device)
    # A bit for each rank.
    covers = torch.empty(
        math.ceil(num_ranks / instance_kernels.BITS),
        num_pixels,
        dtype=torch.int32,
        device=device,
    )
    with on_device(device):
        note_covers[programs(geometry)](
            mask_logits.contiguous(),
            found.queries.contiguous(),
            counts,
            sizes.sizes,
            sizes.scales,
            covers,
            areas,
            logit,
            map_height,
            map_width,
            num_planes,
            num_pixels,
            num_columns=num_ranks,
            is_padded=geometry.is_padded,
            bits_of_word=instance_kernels.BITS,
            block=batch_kernels.BLOCK,
            **batch_kernels.OPTIONS,
        )
        needed = _needed(areas, overlap=overlap)
        place[batch_size,](
            covers,
            needed,
            counts,
            sizes.sizes,
            owner,
            free,
            num_pixels,
            num_columns=num_ranks,
            bits_of_word=instance_kernels.BITS,
            block=instance_kernels.PLACE_BLOCK,
            **instance_kernels.PLACE_OPTIONS,
        )
    return _Places(owner=owner, needed=needed, free=free)


def _by_plain_operations(
    mask_logits: Tensor,
    found: Candidates,
    geometry: BatchGeometry,
    *,
    logit: float,
    overlap: float,
) -> _Places:
    batch_size, num_ranks = found.queries.shape
    owners: list[Tensor] = [torch.empty(0)] * batch_size
    needed = torch.empty(batch_size, num_ranks, dtype=torch.int64, device=mask_logits.device)
    free = torch.empty_like(needed)
    for indices, at, image in plain_groups(geometry, mask_logits.device):
        group = _placed_group(mask_logits, found, image, at=at, logit=logit, overlap=overlap)
        needed.index_copy_(0, at, group.needed)
        free.index_copy_(0, at, group.free)
        by_column = group.owner.view(len(indices), *image.target_size).transpose(1, 2).flatten(1)
        for index, pixels in zip(indices, by_column, strict=True):
            owners[index] = pixels
    return _Places(owner=torch.cat(owners), needed=needed, free=free)


def _placed_group(
    mask_logits: Tensor,
    found: Candidates,
    image: Geometry,
    *,
    at: Int64[Tensor, " group"],
    logit: float,
    overlap: float,
) -> _Places:
    """Places the instances of images of one size; their pixels stand row by row."""
    queries, is_candidate = found.queries[at], found.is_candidate[at]
    num_ranks = queries.shape[1]
    owner = torch.full(
        (len(at), *image.target_size), num_ranks, dtype=torch.int16, device=at.device
    )
    needed, free = [], []
    for rank in range(num_ranks):
        mask = image.resized(mask_logits[at, queries[:, rank]].float()) > logit
        mask &= is_candidate[:, rank, None, None]
        is_free = mask & (owner == num_ranks)
        needed.append(_needed(mask.sum((1, 2)), overlap=overlap))
        free.append(is_free.sum((1, 2)))
        is_free &= (free[-1] >= needed[-1])[:, None, None]
        owner.masked_fill_(is_free, rank)
    return _Places(owner=owner.flatten(), needed=torch.stack(needed, 1), free=torch.stack(free, 1))
