"""Shrinks or tiles images for which a device has too little memory."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from maskformer import Segmentation, Span, window_grid
from pipeline.labelling.failures.gpu_errors import is_gpu_memory_error

HeightWidth = tuple[int, int]

_MOST_HALVINGS = 3
_FILTER = Image.Resampling.BILINEAR
_SMALLEST_SIDE = 64
"""Pixels; backbones halve the image five times, so that less would leave one or two."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether a device or the machine had no memory for a tensor."""
    if isinstance(error, MemoryError) or is_gpu_memory_error(error):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_memory() -> None:
    """Returns memory of a failed computation to the GPU.

    Raises:
        RuntimeError: the GPU does not compute any more: it was no want of memory.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        check_computes(torch.device("cuda"))


def check_computes(device: torch.device) -> None:
    """Computes a small product and a convolution.

    Raises:
        RuntimeError: the device fails, or its numbers are wrong.
    """
    ones = torch.ones(1, 1, 64, 64, device=device)
    product, convolved = ones @ ones, torch.nn.functional.conv2d(ones, ones[..., :3, :3])
    if float(product.sum() + convolved.sum()) != 64**3 + 9 * 62**2:
        raise RuntimeError("CUDA error: the device computes a product of ones wrong")


def shrunk(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """Yields the image at 1/2, 1/4 and 1/8 of its sides, as long as they are not too short."""
    for height, width in _halved(pixels.shape[:2]):
        yield np.asarray(Image.fromarray(pixels).resize((width, height), _FILTER))


def grids(size: HeightWidth) -> Iterator[list[tuple[Span, Span]]]:
    """Yields grids of windows of 1/2, 1/4 and 1/8 of the image's sides, as rows and columns."""
    for windows in _halved(size):
        yield window_grid(size, windows=windows)


def _halved(size: HeightWidth) -> Iterator[HeightWidth]:
    height, width = size
    for _ in range(_MOST_HALVINGS):
        height, width = height // 2, width // 2
        if min(height, width) < _SMALLEST_SIDE:
            return
        yield height, width


def enlarged(segmentation: Segmentation, *, size: HeightWidth) -> Segmentation:
    """Resizes the map to `size` by nearest neighbour."""
    ids: Tensor = segmentation.segmentation
    rows, columns = (
        torch.from_numpy(((np.arange(new) + 0.5) * old / new).astype(np.int64))
        for new, old in zip(size, ids.shape, strict=True)
    )
    return Segmentation(segmentation=ids[rows][:, columns], segments=segmentation.segments)
