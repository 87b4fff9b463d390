"""Resizes bytes on any device to what Pillow makes of them, byte for byte.

`MaskFormerImageProcessor.resize_on_device` is the door. Pillow resizes in integers: each new pixel
is a sum of old ones times weights of 22 binary places, along one axis, then along the other, with a
rounding to bytes after each. Here the same sums are made of gathered rows and columns.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64, UInt8
from PIL import Image
from torch import Tensor

from maskformer.device_copies import copied_to
from maskformer.preprocessing.resizing import HeightWidth

_BITS = 22
"""Binary places of a weight, as in Pillow's Resample.c: 32, less 8 of the pixel and 2 for sums."""
_VALUES_AT_ONCE = 2**26
"""Bounds the int32 sums of a piece of the batch: 256 MiB."""
_HEIGHT, _WIDTH = 1, 2


def _triangle(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _cubic(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_Filter = Callable[[Float64[np.ndarray, "..."]], Float64[np.ndarray, "..."]]
_FILTERS: dict[int, tuple[_Filter, float]] = {
    Image.Resampling.BILINEAR: (_triangle, 1.0),
    Image.Resampling.BICUBIC: (_cubic, 2.0),
}
"""The filters and how far they reach, in pixels; see `resizing.DEVICE_FILTERS`."""


def resize_bytes(
    pixels: UInt8[Tensor, "batch old_height old_width channels"],
    *,
    size: HeightWidth,
    resample: int,
) -> UInt8[Tensor, "batch {size[0]} {size[1]} channels"]:
    """Returns the images at `size`, with the bytes of Pillow's `resize`.

    Args:
        resample: BILINEAR or BICUBIC, as Pillow numbers them.
    """
    height, width, channels = pixels.shape[1:]
    values = max(height, size[0]) * max(width, size[1]) * channels
    pieces = pixels.split(max(1, _VALUES_AT_ONCE // values))
    resized = [_resized(piece, size=size, resample=resample) for piece in pieces]
    return resized[0] if len(resized) == 1 else torch.cat(resized)


def _resized(
    pixels: UInt8[Tensor, "batch _ _ channels"], *, size: HeightWidth, resample: int
) -> UInt8[Tensor, "batch _ _ channels"]:
    old = (pixels.shape[1], pixels.shape[2])
    is_height_first = _pillow_chooses_the_order() and _is_height_first(old, size)
    for axis in (_HEIGHT, _WIDTH) if is_height_first else (_WIDTH, _HEIGHT):
        new = size[axis - 1]
        if pixels.shape[axis] != new:
            pixels = _along(pixels, axis=axis, new=new, resample=resample)
    return pixels


def _is_height_first(old: HeightWidth, new: HeightWidth) -> bool:
    """Returns whether Pillow 13 resizes along the height first, where that saves it work."""
    fewer_rows, fewer_columns = old[0] - new[0], old[1] - new[1]
    return fewer_rows > max(0, 2 * fewer_columns)


@cache
def _pillow_chooses_the_order() -> bool:
    """Returns whether this Pillow chooses an axis; older ones resize along the width first."""
    # The two orders give this image different bytes.
    pixels = np.array([[58, 75], [249, 220], [46, 121], [168, 5], [217, 51]], np.uint8)
    image = Image.fromarray(pixels)
    first_along_width = image.resize((1, 5), Image.Resampling.BILINEAR).resize(
        (1, 1), Image.Resampling.BILINEAR
    )
    at_once = image.resize((1, 1), Image.Resampling.BILINEAR)
    return at_once.tobytes() != first_along_width.tobytes()


def _along(
    pixels: UInt8[Tensor, "batch _ _ channels"], *, axis: int, new: int, resample: int
) -> UInt8[Tensor, "batch _ _ channels"]:
    places, weights = _taps(pixels.shape[axis], new, resample, pixels.device)
    shape = [new if each == axis else 1 for each in range(pixels.dim())]
    size = [new if each == axis else side for each, side in enumerate(pixels.shape)]
    sums = torch.full(size, 1 << (_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(places, weights, strict=True):
        sums.addcmul_(pixels.index_select(axis, place), weight.view(shape))
    return (sums >> _BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _taps(
    old: int, new: int, resample: int, device: torch.device
) -> tuple[Int64[Tensor, "taps {new}"], Int32[Tensor, "taps {new}"]]:
    """Returns the old places and the weights whose products add up to each new place."""
    places, weights = taps(old, new, resample=resample)
    # Not inference tensors, even when made there: they are kept.
    with torch.inference_mode(False):
        return (
            copied_to(device, torch.from_numpy(places)),
            copied_to(device, torch.from_numpy(weights)),
        )


def taps(
    old: int, new: int, *, resample: int
) -> tuple[Int64[np.ndarray, "taps {new}"], Int32[np.ndarray, "taps {new}"]]:
    """Computes places and weights of an axis in the steps of Pillow's `precompute_coeffs`."""
    kernel, reach = _FILTERS[resample]
    scale = old / new
    filter_scale = max(scale, 1.0)
    support = reach * filter_scale
    most = math.ceil(support) * 2 + 1
    centers = (np.arange(new) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centers + support + 0.5).astype(np.int64), old)
    places = first + np.arange(most)[:, None]
    values = kernel((places - centers + 0.5) * (1.0 / filter_scale))
    values[places >= end] = 0.0
    total = np.zeros(new)
    for tap in values:  # one after the other: the order decides the last bits
        total += tap
    values = np.divide(values, total, out=values, where=total != 0)
    rounded = values * (1 << _BITS) + np.where(values < 0, -0.5, 0.5)
    weights = rounded.astype(np.int32)
    used = 1 + int(np.flatnonzero(weights.any(axis=1)).max(initial=0))
    return np.minimum(places[:used], old - 1), weights[:used]
