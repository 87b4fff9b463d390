"""Mask losses: focal and dice loss of matched masks with their labels, at the size of the labels.

Takes the matched mask logits of one image, of all decoder layers together; `loss.py` adds up what
comes out. Masks at full size are sixteen times as large as their logits and are never kept: the
gradient is worked out while they are there, and kept at the size of the logits. On a CPU in float32
`mask_loops.py` does it in one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskformer.cpu import mask_loops
from maskformer.cpu.mask_loops import FOCAL_ALPHA, as_bytes
from maskformer.criterion import pieces
from maskformer.criterion.mask_runs import MaskRuns
from maskformer.criterion.matcher import softplus
from maskformer.criterion.targets import IdMap, MaskLabels, expand_masks

# About as many pixels of float32 as fit a CPU's cache.
_PIXELS_ON_A_CPU = 2**20


def focal_and_dice(
    logits: Float[Tensor, "chosen height width"],
    mask_labels: MaskLabels,
    *,
    chosen: Int[Tensor, " chosen"],
    valid: Bool[Tensor, "full_height full_width"] | None,
) -> tuple[Float[Tensor, " chosen"], Float[Tensor, " chosen"]]:
    """Focal and dice loss of each mask with the label `chosen` for it."""
    return _FocalAndDice.apply(logits, mask_labels, chosen, valid)


class _FocalAndDice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "chosen height width"],
        mask_labels: MaskLabels,
        chosen: Int[Tensor, " chosen"],
        valid: Bool[Tensor, "full_height full_width"] | None,
    ) -> tuple[Float[Tensor, " chosen"], Float[Tensor, " chosen"]]:
        compare = _by_loops if pieces.runs_in_loops(logits) else _by_operations
        # Autocast would make the products of vectors and matrices, which are sums, far too coarse.
        with torch.autocast(logits.device.type, enabled=False):
            losses = compare(logits, mask_labels, chosen=chosen, valid=valid)
        focal, dice, focal_gradient, dice_gradient = losses
        ctx.save_for_backward(focal_gradient, dice_gradient)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, focal: Float[Tensor, " chosen"], dice: Float[Tensor, " chosen"]
    ) -> tuple[Float[Tensor, "chosen height width"], None, None, None]:
        focal_gradient, dice_gradient = ctx.saved_tensors
        gradient = focal[:, None, None] * focal_gradient + dice[:, None, None] * dice_gradient
        return gradient, None, None, None


LossesAndGradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""Focal and dice loss of each mask, and the gradients of both by its logits."""


def _by_loops(
    logits: Float[Tensor, "chosen height width"],
    mask_labels: MaskLabels,
    *,
    chosen: Int[Tensor, " chosen"],
    valid: Bool[Tensor, "full_height full_width"] | None,
) -> LossesAndGradients:
    """Computes them in compiled loops, in float32 on a CPU."""
    label_of = _labels(mask_labels, chosen=chosen)
    full_size = (mask_labels.shape[-2], mask_labels.shape[-1])
    return mask_loops.mask_losses(logits, label_of, full_size=full_size, valid=valid)


def _labels(
    mask_labels: MaskLabels, *, chosen: Int[Tensor, " chosen"]
) -> Callable[[int], tuple[np.ndarray, np.int32]]:
    """Returns a function from a chosen mask to a plane of numbers, and the mask's number there."""
    if isinstance(mask_labels, IdMap):
        ids = mask_labels.ids[chosen].to(torch.int32).numpy()
        plane = mask_labels.map.to(torch.int32).numpy()
        return lambda mask: (plane, ids[mask])
    numbers = chosen.tolist()
    if isinstance(mask_labels, MaskRuns):
        return lambda mask: (mask_labels.plane(numbers[mask]), np.int32(1))
    masks = as_bytes(mask_labels if mask_labels.dtype == torch.bool else mask_labels != 0)
    return lambda mask: (masks[numbers[mask]], np.int32(1))


def _by_operations(
    logits: Float[Tensor, "chosen height width"],
    mask_labels: MaskLabels,
    *,
    chosen: Int[Tensor, " chosen"],
    valid: Bool[Tensor, "full_height full_width"] | None,
) -> LossesAndGradients:
    """With torch's operations, on any device and in any precision."""
    full_size = (mask_labels.shape[-2], mask_labels.shape[-1])
    pixels = pieces.values_at_once(logits.device, on_cpu=_PIXELS_ON_A_CPU)
    at_once = max(1, pixels // (full_size[0] * full_size[1]))
    enlarging = _Enlarging.of(logits, full_size=full_size)
    compared = [
        _piece(some, expand_masks(mask_labels, chosen=of_piece), valid=valid, enlarging=enlarging)
        for some, of_piece in zip(logits.split(at_once), chosen.split(at_once), strict=True)
    ]
    focal, dice, focal_gradient, dice_gradient = (
        torch.cat(parts) for parts in zip(*compared, strict=True)
    )
    return focal, dice, focal_gradient, dice_gradient


@dataclass(frozen=True, kw_only=True)
class _Enlarging:
    """The weight of each logit in each pixel, along the rows and along the columns."""

    rows: Float[Tensor, "height full_height"]
    columns: Float[Tensor, "width full_width"]

    @classmethod
    def of(
        cls, logits: Float[Tensor, "masks height width"], *, full_size: tuple[int, int]
    ) -> "_Enlarging":
        rows, columns = (
            F.interpolate(
                torch.eye(length, dtype=logits.dtype, device=logits.device)[None],
                size=count,
                mode="linear",
            )[0]
            for length, count in zip(logits.shape[1:], full_size, strict=True)
        )
        return cls(rows=rows, columns=columns)

    def shrink(
        self, gradient: Float[Tensor, "masks full_height full_width"]
    ) -> Float[Tensor, "masks height width"]:
        """Turns the gradient by enlarged logits into the gradient by the logits themselves.

        Bilinear interpolation is linear along either side, so its reverse is a product with a
        matrix on each; torch's own is three times as slow on a CPU, and adds in a random order on
        a GPU.
        """
        return self.rows @ (gradient @ self.columns.T)


def _piece(
    logits: Float[Tensor, "masks height width"],
    labels: Bool[Tensor, "masks full_height full_width"],
    *,
    valid: Bool[Tensor, "full_height full_width"] | None,
    enlarging: _Enlarging,
) -> LossesAndGradients:
    full = F.interpolate(logits[:, None], size=labels.shape[1:], mode="bilinear")
    comparison = _compare(full.flatten(1), labels.flatten(1), valid=valid)
    focal, focal_slope = _focal(comparison)
    focal_gradient = enlarging.shrink(focal_slope.view(labels.shape))
    dice, dice_slope = _dice(comparison)
    return focal, dice, focal_gradient, enlarging.shrink(dice_slope.view(labels.shape))


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
    """Computes one minus the overlap of each mask with its label, and its slope by logit.

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
