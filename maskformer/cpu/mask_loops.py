"""The mask losses and the terms of matching costs in compiled loops, for float32 on a CPU.

Called by `mask_losses.py` and `matcher.py`. What torch does in twenty passes over memory is done
here in one, row by row, in the cache of a core: for losses that is enlarging, both losses, and the
gradients, added up at the size of the logits as they come. The exponential and the logarithm are
polynomials, good to 1e-7, so that a processor takes many pixels at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from maskformer.bilinear import CPU, interpolation_grids
from maskformer.cpu.compiled import compiled
from maskformer.cpu.loops import arrays, in_parts, widen

FOCAL_ALPHA = 0.25


@dataclass(frozen=True, kw_only=True)
class PairTerms:
    """Terms from which the losses of each query with any mask are computed; see `matcher.py`."""

    probability: Float[Tensor, "queries pixels"]
    inside_more: Float[Tensor, "queries pixels"]
    """By how much a pixel's focal loss is higher where the label is 1 than where it is 0."""
    probability_sum: Float[Tensor, " queries"]
    """Over the pixels that count."""
    outside_sum: Float[Tensor, " queries"]
    """The focal loss if all pixels that count were labelled 0."""


def pair_terms(
    logits: Float32[Tensor, "queries pixels"], valid: Float32[Tensor, " pixels"] | None
) -> PairTerms:
    """The terms of all queries; `valid` is 1 where a pixel counts."""
    samples = logits.numpy()
    counted = np.ones(samples.shape[1], np.float32) if valid is None else valid.numpy()
    probability, inside_more = np.empty_like(samples), np.empty_like(samples)
    sums = np.empty((len(samples), 2), np.float32)

    def of_queries(first: int, end: int) -> None:
        for query in range(first, end):
            row = samples[query], counted, probability[query], inside_more[query]
            _terms_of_query(*row, sums[query])

    in_parts(len(samples), of_queries)
    probability_sum, outside_sum = torch.from_numpy(sums).unbind(1)
    return PairTerms(
        probability=torch.from_numpy(probability),
        inside_more=torch.from_numpy(inside_more),
        probability_sum=probability_sum,
        outside_sum=outside_sum,
    )


def mask_losses(
    logits: Float32[Tensor, "chosen height width"],
    label_of: Callable[[int], tuple[np.ndarray, np.int32]],
    *,
    full_size: tuple[int, int],
    valid: Bool[Tensor, "full_height full_width"] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes focal and dice loss of each mask, and the gradients of both by its logits.

    Args:
        label_of: gives for each mask a plane of numbers at `full_size`, and the number that its
            pixels have there.
    """
    num_masks, height, width = logits.shape
    samples = np.ascontiguousarray(logits.detach().numpy())
    # An empty array means that every pixel counts.
    counted = np.zeros((0, 0), np.uint8) if valid is None else as_bytes(valid)
    num_pixels = (
        int(np.count_nonzero(counted)) if valid is not None else full_size[0] * full_size[1]
    )
    rows, columns = interpolation_grids((height, width), full_size, CPU)
    at = (*arrays(rows), *arrays(columns))
    sums = np.zeros((num_masks, len(_SUMS)))
    slopes = np.zeros((num_masks, 3, height, width), np.float32)

    def compare(first: int, end: int) -> None:
        for mask in range(first, end):
            plane, value = label_of(mask)
            _compare(samples[mask], plane, value, counted, *at, sums[mask], slopes[mask])

    in_parts(num_masks, compare)
    return _finished(sums, slopes, num_pixels=max(1, num_pixels))


# What is added up over the pixels of a mask: cross entropy, weighed by the squared error, of all
# pixels and of those inside the label; the errors likewise; the pixels inside.
_SUMS = ("focal", "focal_inside", "errors", "errors_inside", "inside")


def _finished(
    sums: np.ndarray, slopes: np.ndarray, *, num_pixels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes both losses and their gradients from sums over pixels, as `mask_losses.py` does."""
    all_focal, focal_inside, errors, missed, area = sums.T
    focal = FOCAL_ALPHA * focal_inside + (1 - FOCAL_ALPHA) * (all_focal - focal_inside)
    overlap = area - missed
    total = area + overlap + (errors - missed)
    ratio = (2 * overlap + 1) / (total + 1)
    by_logit, by_logit_inside = slopes[:, 1], slopes[:, 2]
    outside_part, inside_part = (
        part.astype(np.float32)[:, None, None] for part in (ratio / (total + 1), 2 / (total + 1))
    )
    dice_gradient = by_logit * outside_part - by_logit_inside * inside_part
    return (
        torch.from_numpy((focal / num_pixels).astype(np.float32)),
        torch.from_numpy((1 - ratio).astype(np.float32)),
        torch.from_numpy(slopes[:, 0] / np.float32(num_pixels)),
        torch.from_numpy(dice_gradient),
    )


def as_bytes(plane: Bool[Tensor, "*shape"]) -> np.ndarray:
    """Views booleans as bytes, as compiled loops take them."""
    return plane.contiguous().view(torch.uint8).numpy()


def _fitted(function: np.ufunc, low: float, high: float, degree: int) -> tuple[np.float32, ...]:
    """A polynomial's coefficients, the highest first; within 1e-7 of the function."""
    series = Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(np.float32(c) for c in series.convert(kind=Polynomial).coef[::-1])


_LN2 = float(np.log(2))
_EXP = _fitted(np.exp, -_LN2 / 2, _LN2 / 2, 6)
_LOG1P = _fitted(np.log1p, 0.0, 1.0, 9)
_LOG2_E = np.float32(1 / _LN2)
_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
_LN2_32 = np.float32(_LN2)
_INSIDE_ALPHA, _OUTSIDE_ALPHA = np.float32(FOCAL_ALPHA), np.float32(1 - FOCAL_ALPHA)
# exp(-87) is the smallest that float32 holds in full; to add it to 1 changes nothing.
_FURTHEST = np.float32(87)


# Sums may be added in any order, and a division need not look for zero: else nothing is done in
# vectors.
_fast = compiled(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_fast
@no_type_check
def _compare(
    logits,
    plane,
    value,
    counted,
    above,
    below,
    weight_below,
    left,
    right,
    weight_right,
    sums,
    slopes,
):
    height = len(logits)
    full_height, full_width = plane.shape
    # Rows of logits at the full width, and what their gradients add up to there.
    wide = np.empty((height, full_width), np.float32)
    added = np.zeros((3, height, full_width), np.float32)
    for y in range(height):
        widen(logits[y], left, right, weight_right, wide[y])
    inside = np.empty(full_width, np.float32)
    towards_error = np.empty(full_width, np.float32)
    mantissa = np.empty(full_width, np.float32)
    exponent = np.empty(full_width, np.int32)
    power = exponent.view(np.float32)
    use = np.ones(full_width, np.float32)
    for y in range(full_height):
        upper, lower = wide[above[y]], wide[below[y]]
        weight = weight_below[y]
        for x in range(full_width):
            label = np.float32(plane[y, x] == value)
            logit = (lower[x] - upper[x]) * weight + upper[x]
            error_logit = (_ONE - _TWO * label) * logit
            inside[x] = label
            towards_error[x] = error_logit
        _decay(towards_error, mantissa, exponent)
        if counted.size:
            for x in range(full_width):
                use[x] = np.float32(counted[y, x])
                inside[x] *= use[x]
        focal, focal_inside, errors, errors_inside, area = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
        upper_focal, lower_focal = added[0, above[y]], added[0, below[y]]
        upper_slope, lower_slope = added[1, above[y]], added[1, below[y]]
        upper_inside, lower_inside = added[2, above[y]], added[2, below[y]]
        weight_above = _ONE - weight
        for x in range(full_width):
            small = mantissa[x] * power[x]
            likelier = _ONE / (_ONE + small)
            wrong = towards_error[x] > _ZERO
            error = (likelier if wrong else small * likelier) * use[x]
            cross_entropy = (towards_error[x] if wrong else _ZERO) + _log1p(small)
            squared = error * error
            per_pixel = squared * cross_entropy
            label = inside[x]
            focal += per_pixel
            focal_inside += per_pixel * label
            errors += error
            errors_inside += error * label
            area += label
            slope = (squared * error + _TWO * (_ONE - error) * per_pixel) * (_OUTSIDE_ALPHA - label)
            by_logit = error * (_ONE - error)
            upper_focal[x] += slope * weight_above
            lower_focal[x] += slope * weight
            upper_slope[x] += by_logit * weight_above
            lower_slope[x] += by_logit * weight
            upper_inside[x] += by_logit * label * weight_above
            lower_inside[x] += by_logit * label * weight
        sums[0] += focal
        sums[1] += focal_inside
        sums[2] += errors
        sums[3] += errors_inside
        sums[4] += area
    for number in range(3):
        for y in range(height):
            for x in range(full_width):
                value_here = added[number, y, x]
                slopes[number, y, left[x]] += value_here * (_ONE - weight_right[x])
                slopes[number, y, right[x]] += value_here * weight_right[x]


@_fast
@no_type_check
def _terms_of_query(logits, counted, probability, inside_more, sums):
    num_pixels = len(logits)
    mantissa = np.empty(num_pixels, np.float32)
    exponent = np.empty(num_pixels, np.int32)
    power = exponent.view(np.float32)
    _decay(logits, mantissa, exponent)
    probability_sum, outside_sum = _ZERO, _ZERO
    for x in range(num_pixels):
        logit = logits[x]
        small = mantissa[x] * power[x]
        likelier = _ONE / (_ONE + small)
        chance = likelier if logit > _ZERO else small * likelier
        cross_entropy = max(logit, _ZERO) + _log1p(small)
        outside = cross_entropy * chance * chance * _OUTSIDE_ALPHA
        inside = (cross_entropy - logit) * (_ONE - chance) * (_ONE - chance) * _INSIDE_ALPHA
        probability[x] = chance
        inside_more[x] = inside - outside
        probability_sum += chance * counted[x]
        outside_sum += outside * counted[x]
    sums[0], sums[1] = probability_sum, outside_sum


@_fast
@no_type_check
def _decay(logits, mantissa, exponent):
    """exp(-|logit|) as a factor near 1 and a power of two, the latter as the bits of a float32."""
    for x in range(len(logits)):
        powers = min(abs(logits[x]), _FURTHEST) * _LOG2_E
        whole = np.floor(powers + _HALF)
        mantissa[x] = _exp((whole - powers) * _LN2_32)
        exponent[x] = (np.int32(127) - np.int32(whole)) << np.int32(23)


# Without loops inside, so that the loop around them is done in vectors.
@_fast
@no_type_check
def _exp(x):
    c = _EXP
    return (((((c[0] * x + c[1]) * x + c[2]) * x + c[3]) * x + c[4]) * x + c[5]) * x + c[6]


@_fast
@no_type_check
def _log1p(x):
    c = _LOG1P
    high = (((c[0] * x + c[1]) * x + c[2]) * x + c[3]) * x + c[4]
    return ((((high * x + c[5]) * x + c[6]) * x + c[7]) * x + c[8]) * x + c[9]
