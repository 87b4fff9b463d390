"""Matcher: which query answers for which labelled mask, at the lowest total cost.

Takes the logits of the model and the targets of a batch; gives pairs of query and target, each at
most once, for every image and decoder layer. `loss.py` takes the pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor, nn

from maskformer.cpu import mask_loops
from maskformer.cpu.mask_loops import FOCAL_ALPHA, PairTerms
from maskformer.criterion import pieces
from maskformer.criterion.targets import (
    MaskLabels,
    expand_masks,
    pad_to_batch,
    sample_labels,
    sample_plane,
)

Number: TypeAlias = float | int
BatchMaskLabels: TypeAlias = Sequence[MaskLabels] | Shaped[Tensor, "_ _ _ _"]
BatchClassLabels: TypeAlias = Sequence[Integer[Tensor, " _"]] | Integer[Tensor, "_ _"]

# Masks are compared with queries so many pixels at a time, of all masks: 256 MB of float32.
_PIXELS_AT_ONCE = 2**26

# Dearer than any real cost, and small enough to leave the others their digits in float64.
_FORBIDDEN = 1e9


class Match(NamedTuple):
    """The assignment of queries to targets in one image.

    A tuple, since users of transformers unpack it.
    """

    queries: Int[Tensor, " matched"]
    targets: Int[Tensor, " matched"]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The matches of a batch for every decoder layer, and what was wrong with the logits."""

    layers: tuple[tuple[Match, ...], ...]
    """By layer, then by image; on the device of the logits."""

    broken_queries: Int[np.ndarray, "layers images"]
    """How many queries have a logit that is not finite; such are matched where no other is left."""


class MaskFormerHungarianMatcher(nn.Module):
    """The assignment of least cost between queries and targets, image by image.

    The cost of a pair is the weighted sum of the focal and dice loss of its masks, at the size of
    the logits, and of minus the probability of the target's label. In float32 under any autocast.
    """

    def __init__(
        self, cost_class: Number = 1.0, cost_mask: Number = 1.0, cost_dice: Number = 1.0
    ) -> None:
        super().__init__()
        if cost_class == cost_mask == cost_dice == 0:
            raise ValueError(
                "one of cost_class, cost_mask and cost_dice must differ from 0, all three are 0; "
                "set the weights of the losses in the model's config"
            )
        self.cost_class = cost_class
        self.cost_mask = cost_mask
        self.cost_dice = cost_dice

    def forward(
        self,
        masks_queries_logits: Float[Tensor, "images queries height width"],
        class_queries_logits: Float[Tensor, "images queries classes"],
        mask_labels: BatchMaskLabels,
        class_labels: BatchClassLabels,
    ) -> list[Match]:
        """Returns one match per image, queries ascending; the fewer of queries and targets."""
        matching = self.match_layers(
            [masks_queries_logits], [class_queries_logits], mask_labels, class_labels
        )
        return list(matching.layers[0])

    @torch.no_grad()
    def match_layers(
        self,
        mask_logits: Sequence[Float[Tensor, "_ _ _ _"]],
        class_logits: Sequence[Float[Tensor, "_ _ _"]],
        mask_labels: BatchMaskLabels,
        class_labels: BatchClassLabels,
        *,
        valid: Sequence[Bool[Tensor, "_ _"]] | None = None,
    ) -> Matching:
        """The matches of all decoder layers. Pixels that are not `valid` add nothing to a cost.

        The host waits for the device once, for the costs of all layers and images together.
        """
        _check_counts(mask_labels, class_labels=class_labels)
        targets, planes = pad_to_batch(list(mask_labels), valid=valid)
        device = mask_logits[0].device
        with torch.autocast(device.type, enabled=False):
            costs = [
                self._image_costs(
                    [layer[image] for layer in mask_logits],
                    [layer[image] for layer in class_logits],
                    target=target,
                    labels=labels,
                    valid=plane,
                )
                for image, (target, labels, plane) in enumerate(
                    zip(targets, class_labels, planes, strict=True)
                )
            ]
        costs_on_host, labels_on_host = _copy_to_host(costs, labels=class_labels)
        _check_labels(labels_on_host, num_labels=class_logits[0].shape[2] - 1)
        broken = [(~np.isfinite(image[:, :, -1])).sum(axis=1) for image in costs_on_host]
        matches = [[_assign(layer[:, :-1]) for layer in image] for image in costs_on_host]
        return Matching(
            layers=_on_device(matches, device=device), broken_queries=np.stack(broken, axis=1)
        )

    def _image_costs(
        self,
        mask_logits: Sequence[Float[Tensor, "queries height width"]],
        class_logits: Sequence[Float[Tensor, "queries classes"]],
        *,
        target: MaskLabels,
        labels: Integer[Tensor, " masks"],
        valid: Bool[Tensor, "full_height full_width"] | None,
    ) -> Float[Tensor, "layers queries masks+1"]:
        """The cost matrix of one image for all decoder layers.

        The last column is the sum of a query's logits, which is not finite where one of them is
        not: so the one copy to the host also tells which queries are broken.
        """
        height, width = mask_logits[0].shape[-2:]
        dtype = torch.promote_types(mask_logits[0].dtype, torch.float32)
        sampled = sample_labels(target, size=(height, width))
        counted = None
        if valid is not None:
            counted = sample_plane(valid, size=(height, width)).flatten().to(dtype)
        groups = _groups_of_layers(mask_logits)
        columns: list[list[Tensor]] = [[] for _ in groups]
        checksums: list[Tensor] = [torch.empty(0)] * len(groups)
        for some in _some_at_a_time(len(labels), pixels=height * width, device=labels.device):
            masks = expand_masks(sampled, chosen=some).flatten(1).to(dtype)
            wanted = labels if some is None else labels[some]
            for number, group in enumerate(groups):
                pixels = _joined(mask_logits[group]).flatten(1).to(dtype)
                classes = _joined(class_logits[group]).to(dtype)
                columns[number].append(
                    self._pair_costs(pixels, classes, masks=masks, labels=wanted, valid=counted)
                )
                checksums[number] = pixels.sum(dim=1) + classes.sum(dim=1)
        by_query = torch.cat(
            [
                torch.cat([*costs, checksum[:, None]], dim=1)
                for costs, checksum in zip(columns, checksums, strict=True)
            ]
        )
        return by_query.unflatten(0, (len(mask_logits), -1))

    def _pair_costs(
        self,
        mask_logits: Float[Tensor, "queries pixels"],
        class_logits: Float[Tensor, "queries classes"],
        *,
        masks: Float[Tensor, "masks pixels"],
        labels: Integer[Tensor, " masks"],
        valid: Float[Tensor, " pixels"] | None,
    ) -> Float[Tensor, "queries masks"]:
        if len(labels) == 0:
            return mask_logits.new_zeros(len(mask_logits), 0)
        # A label out of range is reported from the host; on the device it would be a bare assert.
        in_range = labels.long().clamp(0, class_logits.shape[1] - 2)
        class_cost = -class_logits.softmax(dim=1)[:, in_range]
        mask_cost, dice_cost = _pairwise_focal_and_dice(mask_logits, masks=masks, valid=valid)
        return (
            self.cost_class * class_cost + self.cost_mask * mask_cost + self.cost_dice * dice_cost
        )

    def extra_repr(self) -> str:
        return (
            f"cost_class={self.cost_class}, cost_mask={self.cost_mask}, cost_dice={self.cost_dice}"
        )


def _groups_of_layers(mask_logits: Sequence[Float[Tensor, "queries height width"]]) -> list[slice]:
    """Groups layers whose pair terms are computed at once: one on a CPU, many on a GPU.

    What lies between logits and costs is larger than both.
    """
    first = mask_logits[0]
    at_once = max(1, pieces.values_at_once(first.device, on_cpu=1) // max(1, first.numel()))
    return [slice(begin, begin + at_once) for begin in range(0, len(mask_logits), at_once)]


def _joined(layers: Sequence[Float[Tensor, "queries *shape"]]) -> Float[Tensor, "rows *shape"]:
    """Joins the queries of all layers; copies nothing where there is one layer."""
    return layers[0] if len(layers) == 1 else torch.cat(list(layers))


def _some_at_a_time(
    count: int, *, pixels: int, device: torch.device
) -> Sequence[Int[Tensor, " some"] | None]:
    """Indices of masks that take little memory together; None for all of them."""
    at_once = max(1, _PIXELS_AT_ONCE // pixels)
    if count <= at_once:
        return [None]
    return torch.arange(count, device=device).split(at_once)


def _check_counts(mask_labels: BatchMaskLabels, *, class_labels: BatchClassLabels) -> None:
    masks = [image.shape[0] for image in mask_labels]
    labels = [image.shape[0] for image in class_labels]
    if masks != labels:
        raise ValueError(
            f"each mask has one class label: mask_labels hold {masks} masks by image, "
            f"class_labels {labels} labels; give both lists in the same order"
        )


def _pairwise_focal_and_dice(
    logits: Float[Tensor, "queries pixels"],
    *,
    masks: Float[Tensor, "masks pixels"],
    valid: Float[Tensor, " pixels"] | None,
) -> tuple[Float[Tensor, "queries masks"], Float[Tensor, "queries masks"]]:
    """Focal and dice loss of every query with every mask.

    A sum over a mask is a product of matrices, and the sum over the rest is that over all pixels
    less that over the mask: two products do.
    """
    num_pixels: Tensor | int = logits.shape[1]
    if valid is not None:
        masks, num_pixels = masks * valid, valid.sum().clamp(min=1)
    in_loops = pieces.runs_in_loops(logits)
    terms = mask_loops.pair_terms(logits, valid) if in_loops else _pair_terms(logits, valid)
    focal = terms.inside_more @ masks.T + terms.outside_sum[:, None]
    overlap = terms.probability @ masks.T
    total = terms.probability_sum[:, None] + masks.sum(dim=1)
    return focal / num_pixels, 1 - (2 * overlap + 1) / (total + 1)


def _pair_terms(
    logits: Float[Tensor, "queries pixels"], valid: Float[Tensor, " pixels"] | None
) -> PairTerms:
    probability = logits.sigmoid()
    outside = softplus(logits, sigmoid=probability)  # cross entropy where the label is 0
    inside = outside - logits  # and where it is 1
    outside = outside * probability.square() * (1 - FOCAL_ALPHA)
    inside = inside * (1 - probability).square() * FOCAL_ALPHA
    counted = logits.new_ones(logits.shape[1]) if valid is None else valid
    return PairTerms(
        probability=probability,
        inside_more=inside - outside,
        probability_sum=probability @ counted,
        outside_sum=outside @ counted,
    )


def softplus(
    logits: Float[Tensor, "masks pixels"], *, sigmoid: Float[Tensor, "masks pixels"]
) -> Float[Tensor, "masks pixels"]:
    """log(1 + exp(logits)), to an absolute error of 1e-7.

    On a CPU five times as fast as torch's own, whose log1p is not vectorised.
    """
    return logits.relu() - torch.maximum(sigmoid, 1 - sigmoid).log_()


def _copy_to_host(
    costs: Sequence[Float[Tensor, "_ _ _"]], *, labels: BatchClassLabels
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Copies all at once, since the host waits at each copy, with the labels, which are checked."""
    pieces = [*costs, *labels]
    flat = torch.cat([piece.flatten().to(costs[0].dtype) for piece in pieces]).cpu().numpy()
    ends = np.cumsum([piece.numel() for piece in pieces])
    arrays = [
        values.reshape(tuple(piece.shape))
        for piece, values in zip(pieces, np.split(flat, ends[:-1]), strict=True)
    ]
    return arrays[: len(costs)], arrays[len(costs) :]


def _check_labels(labels: Sequence[np.ndarray], *, num_labels: int) -> None:
    for image, values in enumerate(labels):
        wrong = values[(values < 0) | (values >= num_labels)]
        if len(wrong):
            raise ValueError(
                f"class labels must be in [0, {num_labels}), image {image} of the batch has "
                f"{wrong[0]:.0f}; set ignore_index or do_reduce_labels in the image processor, "
                "or num_labels in the model's config"
            )


def _assign(costs: Float[np.ndarray, "queries masks"]) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment  # 0.4 s, which inference need not wait for

    return linear_sum_assignment(np.where(np.isfinite(costs), costs, _FORBIDDEN))


def _on_device(
    matches: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], *, device: torch.device
) -> tuple[tuple[Match, ...], ...]:
    """Reorders from image-major on the host to layer-major on the device, in one copy."""
    by_layer = list(zip(*matches, strict=True))
    pairs = [np.stack(pair) for layer in by_layer for pair in layer]
    joined = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device, non_blocking=True)
    split = iter(joined.split([pair.shape[1] for pair in pairs], dim=1))
    return tuple(tuple(Match(*next(split)) for _ in layer) for layer in by_layer)
