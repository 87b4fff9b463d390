"""Loss: how far the model's answers are from the targets.

Takes the logits of every decoder layer and the targets of a batch; gives one loss per layer and
kind, not yet weighted. `model.py` weighs and adds them. What the losses are divided by is counted
once per optimiser step over all that takes part in it, so that many workers equal one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maskformer.matcher import (
    FOCAL_ALPHA,
    BatchClassLabels,
    BatchMaskLabels,
    MaskFormerHungarianMatcher,
    Matching,
    Number,
    softplus,
)
from maskformer.targets import expand_masks, pad_to_batch

logger = logging.getLogger(__name__)

# Masks are compared at full size a few at a time: about this many pixels of float32 fit a cache.
_PIXELS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Normalisers:
    """What the losses of one optimiser step are divided by: means per process, over the whole step.

    Gradients are averaged over processes and added over micro-batches. With these, both come to the
    gradient of one process that sees all images at once.
    """

    num_masks: Float[Tensor, ""]
    """For mask and dice loss: the number of targets, at least 1."""

    class_weight: Float[Tensor, ""]
    """For cross entropy: the number of queries, where those without a target weigh `eos_coef`."""


def step_normalisers(
    micro_batches: Sequence[BatchClassLabels],
    *,
    num_queries: int,
    eos_coef: Number,
    device: torch.device | str,
    process_group: dist.ProcessGroup | None = None,
) -> Normalisers:
    """Counts the targets of this process's micro-batches, and of those of all other processes.

    One collective where torch.distributed is initialised: every process of the group calls, one
    without images too, with an empty list. The host does not wait for the device.
    """
    counts = _count(micro_batches, num_queries=num_queries, device=device)
    num_processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts, group=process_group)
        num_processes = dist.get_world_size(process_group)
    return _mean_normalisers(counts, num_processes=num_processes, eos_coef=eos_coef)


class MaskFormerLoss(nn.Module):
    """Cross entropy of the labels, focal and dice loss of the masks, for every decoder layer.

    Published checkpoints hold the buffer `empty_weight`; the weight of the null class is taken from
    `eos_coef`, which nothing can overwrite. `weight_dict` is for the caller, who weighs.
    """

    def __init__(
        self,
        num_labels: int,
        matcher: MaskFormerHungarianMatcher,
        weight_dict: Mapping[str, Number],
        eos_coef: Number,
        *,
        non_finite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.matcher = matcher
        self.weight_dict = weight_dict
        self.eos_coef = eos_coef
        self.non_finite = non_finite
        """On logits that are not finite: raise, or make every loss of the batch NaN. Gradients are
        then NaN on all workers that average them, and all skip the step by the gradients' norm, as
        they do when a gradient scaler overflows."""
        self.num_non_finite = 0
        """Queries seen so far whose logits were not finite, each decoder layer counted."""
        self.register_buffer("empty_weight", torch.tensor([1.0] * num_labels + [eos_coef]))

    def forward(
        self,
        masks_queries_logits: Float[Tensor, "images queries height width"],
        class_queries_logits: Float[Tensor, "images queries classes"],
        mask_labels: BatchMaskLabels,
        class_labels: BatchClassLabels,
        auxiliary_predictions: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        num_masks: Float[Tensor, ""] | Number | None = None,
        class_weight: Float[Tensor, ""] | Number | None = None,
        valid: Sequence[Bool[Tensor, "_ _"]] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """`loss_cross_entropy`, `loss_mask`, `loss_dice`, and `_0` and so on for auxiliary layers.

        `num_masks` and `class_weight` are the step's `Normalisers`. Without them the batch counts
        as the whole step: in training over all processes, by one collective; in evaluation, where
        processes may have unequal numbers of batches, over this one. `valid` is False at pixels
        that are left out of matching, mask and dice loss. The host waits for the device once, in
        the matcher.
        """
        auxiliary = auxiliary_predictions or ()
        mask_logits = [masks_queries_logits, *(a["masks_queries_logits"] for a in auxiliary)]
        class_logits = [class_queries_logits, *(a["class_queries_logits"] for a in auxiliary)]
        if num_masks is None or class_weight is None:
            batch = self._batch_normalisers(class_labels, like=class_queries_logits)
            num_masks = batch.num_masks if num_masks is None else num_masks
            class_weight = batch.class_weight if class_weight is None else class_weight
        matching = self.matcher.match_layers(
            mask_logits, class_logits, mask_labels, class_labels, valid=valid
        )
        is_finite = self._check_finite(matching)
        losses: dict[str, Tensor] = {}
        for layer, indices in enumerate(matching.layers):
            of_layer = {
                **self.loss_labels(class_logits[layer], class_labels, indices, class_weight),
                **self.loss_masks(mask_logits[layer], mask_labels, indices, num_masks, valid=valid),
            }
            suffix = f"_{layer - 1}" if layer else ""
            losses |= {f"{name}{suffix}": loss for name, loss in of_layer.items()}
        return losses if is_finite else {name: loss * torch.nan for name, loss in losses.items()}

    def get_num_masks(
        self,
        class_labels: BatchClassLabels,
        device: torch.device | str,
        *,
        process_group: dist.ProcessGroup | None = None,
    ) -> Float[Tensor, ""]:
        """The batch's number of targets, mean per process, at least 1; one collective."""
        return step_normalisers(
            [class_labels],
            num_queries=0,
            eos_coef=self.eos_coef,
            device=device,
            process_group=process_group,
        ).num_masks

    def loss_labels(
        self,
        class_queries_logits: Float[Tensor, "images queries classes"],
        class_labels: BatchClassLabels,
        indices: Sequence[tuple[Tensor, Tensor]],
        class_weight: Float[Tensor, ""] | Number | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy of all queries; those without a target should say null.

        Without `class_weight` it is divided by the weight of this batch's own queries.
        """
        logits = _at_least_float32(class_queries_logits)
        chosen = [
            labels[match[1]].long() for labels, match in zip(class_labels, indices, strict=True)
        ]
        labels = torch.full(logits.shape[:2], self.num_labels, device=logits.device)
        labels[_positions(indices, device=logits.device)] = torch.cat(chosen)
        per_query = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        weights = torch.where(labels.flatten() == self.num_labels, self.eos_coef, 1.0)
        if class_weight is None:
            class_weight = weights.sum()
        return {"loss_cross_entropy": (per_query * weights).sum() / class_weight}

    def loss_masks(
        self,
        masks_queries_logits: Float[Tensor, "images queries height width"],
        mask_labels: BatchMaskLabels,
        indices: Sequence[tuple[Tensor, Tensor]],
        num_masks: Float[Tensor, ""] | Number,
        *,
        valid: Sequence[Bool[Tensor, "_ _"]] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Focal and dice loss of the matched masks, compared at the size of the targets."""
        targets, planes = pad_to_batch(list(mask_labels), valid=valid)
        positions = _positions(indices, device=masks_queries_logits.device)
        matched = _at_least_float32(masks_queries_logits[positions])
        height, width = targets[0].shape[-2:]
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        per_image = matched.split([len(queries) for queries, _ in indices])
        focal, dice = [matched.new_zeros(0)], [matched.new_zeros(0)]
        for image, (_, chosen) in enumerate(indices):
            pieces = zip(per_image[image].split(at_once), chosen.split(at_once), strict=True)
            for logits, of_piece in pieces:
                masks = expand_masks(targets[image], chosen=of_piece)
                piece_focal, piece_dice = _FocalAndDice.apply(logits, masks, planes[image])
                focal.append(piece_focal)
                dice.append(piece_dice)
        return {
            "loss_mask": torch.cat(focal).sum() / num_masks,
            "loss_dice": torch.cat(dice).sum() / num_masks,
        }

    def _batch_normalisers(self, class_labels: BatchClassLabels, *, like: Tensor) -> Normalisers:
        num_queries, device = like.shape[1], like.device
        if self.training:
            return step_normalisers(
                [class_labels], num_queries=num_queries, eos_coef=self.eos_coef, device=device
            )
        counts = _count([class_labels], num_queries=num_queries, device=device)
        return _mean_normalisers(counts, num_processes=1, eos_coef=self.eos_coef)

    def _check_finite(self, matching: Matching) -> bool:
        """Counts the broken queries, and raises or warns with their places."""
        broken = matching.broken_queries
        if not broken.any():
            return True
        self.num_non_finite += int(broken.sum())
        places = "; ".join(
            f"image {image}, {'last layer' if layer == 0 else f'auxiliary layer {layer - 1}'}: "
            f"{broken[layer, image]}"
            for layer, image in np.argwhere(broken)
        )
        message = f"logits must be finite; queries of the batch whose logits are not: {places}"
        if self.non_finite == "raise":
            raise FloatingPointError(
                f"{message}; lower the learning rate or the loss scale, or set non_finite='skip' "
                "to leave such steps out"
            )
        logger.warning("%s; the losses of this batch are NaN, to skip the step", message)
        return False


class _FocalAndDice(torch.autograd.Function):
    """Focal and dice loss of each mask with its label, keeping nothing of full size for backward.

    The gradient is worked out while the masks are at the size of the labels, and kept at that of
    the logits, which is sixteen times smaller.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "masks height width"],
        labels: Bool[Tensor, "masks full_height full_width"],
        valid: Bool[Tensor, "full_height full_width"] | None,
    ) -> tuple[Float[Tensor, " masks"], Float[Tensor, " masks"]]:
        # Autocast would make the products of vectors and matrices, which are sums, far too coarse.
        with torch.autocast(logits.device.type, enabled=False):
            full = F.interpolate(logits[:, None], size=labels.shape[1:], mode="bilinear")
            comparison = _compare(full.flatten(1), labels.flatten(1), valid=valid)
            focal, focal_slope = _focal(comparison)
            dice, dice_slope = _dice(comparison)
            ctx.save_for_backward(
                _shrink_gradient(focal_slope.view(labels.shape), size=logits.shape[1:]),
                _shrink_gradient(dice_slope.view(labels.shape), size=logits.shape[1:]),
            )
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, focal: Float[Tensor, " masks"], dice: Float[Tensor, " masks"]
    ) -> tuple[Float[Tensor, "masks height width"], None, None]:
        focal_gradient, dice_gradient = ctx.saved_tensors
        return (
            focal[:, None, None] * focal_gradient + dice[:, None, None] * dice_gradient,
            None,
            None,
        )


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Masks beside their labels, pixel by pixel, as both losses look at them.

    Labels are numbers, 0 and 1, and cases are told apart by arithmetic: in memory and time these
    pixels are most of the loss, and on booleans each operation costs several times as much.
    """

    labels: Float[Tensor, "masks pixels"]
    error: Float[Tensor, "masks pixels"]
    """The probability of the wrong answer: 1 - p_t in the paper of the focal loss."""
    cross_entropy: Float[Tensor, "masks pixels"]
    num_pixels: Float[Tensor, ""]


def _compare(
    logits: Float[Tensor, "masks pixels"],
    labels: Bool[Tensor, "masks pixels"],
    *,
    valid: Bool[Tensor, "full_height full_width"] | None,
) -> _Comparison:
    inside = labels.to(logits.dtype)
    towards_error = (1 - 2 * inside).mul_(logits)
    error = towards_error.sigmoid()
    cross_entropy = softplus(towards_error, sigmoid=error)
    num_pixels = logits.new_full((), logits.shape[1])
    if valid is not None:
        # A pixel of the background without error adds nothing to either loss, nor to a gradient.
        counted = valid.flatten().to(logits.dtype)
        inside, error, num_pixels = inside * counted, error * counted, counted.sum().clamp(min=1)
    return _Comparison(
        labels=inside, error=error, cross_entropy=cross_entropy, num_pixels=num_pixels
    )


def _focal(pixels: _Comparison) -> tuple[Float[Tensor, " masks"], Float[Tensor, "masks pixels"]]:
    """The mean of alpha_t · error² · cross entropy over each mask's pixels, and its slope by logit.

    alpha_t is 1 - alpha outside the mask and alpha inside. A logit moves the error up outside the
    mask and down inside, so that alpha_t times its direction is 1 - alpha - label.
    """
    squared = pixels.error.square()
    per_pixel = squared * pixels.cross_entropy
    inside = torch.linalg.vecdot(per_pixel, pixels.labels)
    outside = per_pixel.sum(dim=1) - inside
    loss = (FOCAL_ALPHA * inside + (1 - FOCAL_ALPHA) * outside) / pixels.num_pixels
    slope = squared.mul_(pixels.error).addcmul_(1 - pixels.error, per_pixel, value=2)
    return loss, slope.mul_((1 - FOCAL_ALPHA - pixels.labels).div_(pixels.num_pixels))


def _dice(pixels: _Comparison) -> tuple[Float[Tensor, " masks"], Float[Tensor, "masks pixels"]]:
    """One minus the overlap of each mask with its label, and its slope by logit.

    The probability of a mask's pixel is the error outside the label and 1 - error inside. Both
    sides of the ratio are 1 larger than the counts, so that no mask over no label is no loss.
    """
    area = pixels.labels.sum(dim=1)
    missed = torch.linalg.vecdot(pixels.error, pixels.labels)
    overlap = area - missed
    total = area + overlap + (pixels.error.sum(dim=1) - missed)
    ratio = (2 * overlap + 1) / (total + 1)
    by_probability = (ratio[:, None] - 2 * pixels.labels).div_(total[:, None] + 1)
    return 1 - ratio, by_probability.mul_(pixels.error).mul_(1 - pixels.error)


def _shrink_gradient(
    gradient: Float[Tensor, "masks full_height full_width"], *, size: Sequence[int]
) -> Float[Tensor, "masks height width"]:
    """From the gradient by enlarged logits to that by the logits themselves.

    Bilinear interpolation is linear along either side, so its reverse is a product with a matrix on
    each; torch's own is three times as slow on a CPU, and adds in a random order on a GPU.
    """
    rows = _enlarging(size[0], like=gradient, count=gradient.shape[1])
    columns = _enlarging(size[1], like=gradient, count=gradient.shape[2])
    return rows @ (gradient @ columns.T)


def _enlarging(length: int, *, like: Tensor, count: int) -> Float[Tensor, "length count"]:
    """What each of `length` logits gives to each of `count` pixels along one side."""
    one_hot = torch.eye(length, dtype=like.dtype, device=like.device)
    return F.interpolate(one_hot[None], size=count, mode="linear")[0]


def _count(
    micro_batches: Sequence[BatchClassLabels], *, num_queries: int, device: torch.device | str
) -> Int[Tensor, "3"]:
    """Targets, queries with a target and queries without. Whole numbers: they add in any order."""
    lengths = [len(labels) for batch in micro_batches for labels in batch]
    matched = sum(min(length, num_queries) for length in lengths)
    counts = [sum(lengths), matched, num_queries * len(lengths) - matched]
    return torch.tensor(counts, dtype=torch.int64).to(device, non_blocking=True)


def _mean_normalisers(
    counts: Int[Tensor, "3"], *, num_processes: int, eos_coef: Number
) -> Normalisers:
    num_targets, num_matched, num_others = (counts.float() / num_processes).unbind()
    class_weight = num_matched + eos_coef * num_others
    return Normalisers(
        num_masks=num_targets.clamp(min=1),
        # 0 only if all that it divides is 0 too.
        class_weight=class_weight.clamp(min=torch.finfo(torch.float32).tiny),
    )


def _at_least_float32(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _positions(
    indices: Sequence[tuple[Tensor, Tensor]], *, device: torch.device
) -> tuple[Int[Tensor, " matched"], Int[Tensor, " matched"]]:
    """Image and query of every match of the batch, to index logits with."""
    queries = torch.cat([queries for queries, _ in indices]).to(device)
    lengths = [len(queries) for queries, _ in indices]
    # Made on the host, where the lengths are known: repeating on the device would wait for it.
    images = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return images.to(device, non_blocking=True), queries
