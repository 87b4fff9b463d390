"""Loss: how far the model's answers are from the targets.

Takes the logits of every decoder layer and the targets of a batch; gives one loss per layer and
kind, not yet weighted. `model.py` weighs and adds them. What the losses are divided by is counted
once per optimiser step over all that takes part in it, so that many workers equal one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskformer.criterion.mask_losses import focal_and_dice
from maskformer.criterion.matcher import (
    BatchClassLabels,
    BatchMaskLabels,
    MaskFormerHungarianMatcher,
    Matching,
    Number,
)
from maskformer.criterion.targets import pad_to_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Normalisers:
    """The divisors of the losses of one optimiser step: means per process, over the whole step.

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
        focal, dice = _mask_losses(mask_logits, mask_labels, matching.layers, valid=valid)
        losses: dict[str, Tensor] = {}
        for layer, (indices, of_focal, of_dice) in enumerate(
            zip(
                matching.layers,
                (focal / num_masks).unbind(),
                (dice / num_masks).unbind(),
                strict=True,
            )
        ):
            of_layer = {
                **self.loss_labels(class_logits[layer], class_labels, indices, class_weight),
                "loss_mask": of_focal,
                "loss_dice": of_dice,
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
        focal, dice = _mask_losses([masks_queries_logits], mask_labels, [indices], valid=valid)
        return {"loss_mask": focal[0] / num_masks, "loss_dice": dice[0] / num_masks}

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


def _mask_losses(
    mask_logits: Sequence[Float[Tensor, "images queries height width"]],
    mask_labels: BatchMaskLabels,
    layers: Sequence[Sequence[tuple[Tensor, Tensor]]],
    *,
    valid: Sequence[Bool[Tensor, "_ _"]] | None,
) -> tuple[Float[Tensor, " layers"], Float[Tensor, " layers"]]:
    """Sums focal and dice loss over the matches of each decoder layer.

    Image by image, with all layers together: a GPU then has few operations to start. An image has
    as many matches in one layer as in another.
    """
    targets, planes = pad_to_batch(list(mask_labels), valid=valid)
    by_layer = [
        _at_least_float32(logits[_positions(indices, device=logits.device)]).split(
            [len(queries) for queries, _ in indices]
        )
        for logits, indices in zip(mask_logits, layers, strict=True)
    ]
    focal, dice = [], []
    for image, (target, plane) in enumerate(zip(targets, planes, strict=True)):
        losses = focal_and_dice(
            torch.cat([matched[image] for matched in by_layer]),
            target,
            chosen=torch.cat([indices[image][1] for indices in layers]),
            valid=plane,
        )
        focal.append(losses[0].unflatten(0, (len(layers), -1)))
        dice.append(losses[1].unflatten(0, (len(layers), -1)))
    return torch.cat(focal, dim=1).sum(dim=1), torch.cat(dice, dim=1).sum(dim=1)


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
    images = torch.from_numpy(np.arange(len(lengths)).repeat(lengths))
    return images.to(device, non_blocking=True), queries
