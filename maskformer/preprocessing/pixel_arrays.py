"""Arrays of images: of any kind and layout of channels, to one form; and zeros around them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from maskformer.preprocessing import resizing

ChannelOrder = Literal["channels_first", "channels_last"]


def image_pixels(image: Any, *, input_data_format: ChannelOrder | None) -> np.ndarray:
    """Returns the image as (height, width, 3), in its own range of values."""
    if isinstance(image, Image.Image):
        return np.array(resizing.to_rgb(image))
    array = as_array(image)
    array = array[..., None] if array.ndim == 2 else channels_last(array, input_data_format)
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    return array[..., :3]


def as_list(items: Any, *, num_dims: int) -> list[Any]:
    """Returns items as a list, also when there is one alone, or all in one array."""
    if isinstance(items, Image.Image):
        return [items]
    if isinstance(items, list | tuple):
        nested = items and isinstance(items[0], list | tuple) and num_dims == 3
        return [image for group in items for image in group] if nested else list(items)
    array = as_array(items)
    return [array] if array.ndim <= num_dims else list(array)


def as_array(item: Any) -> np.ndarray:
    """Makes an array of a PIL image, an array, nested lists, or a tensor on any device."""
    if hasattr(item, "detach"):
        item = item.detach().cpu()
    return np.asarray(item)


def channels_last(array: np.ndarray, order: ChannelOrder | None) -> np.ndarray:
    if array.ndim != 3:
        raise ValueError(
            f"an image has 2 dimensions, or 3 with its channels, got an array of {array.shape}"
        )
    if order is None:
        has_few = [array.shape[axis] in (1, 3, 4) for axis in (0, 2)]
        if not any(has_few):
            raise ValueError(
                f"an image has 1, 3 or 4 channels, first or last, got an array of {array.shape}"
            )
        # Where both fit it is the first, as in transformers; input_data_format says otherwise.
        order = "channels_first" if has_few[0] else "channels_last"
    return np.moveaxis(array, 0, -1) if order == "channels_first" else array


def is_in_unit_range(pixels: np.ndarray) -> bool:
    """Tells whether pixels for Pillow to resize are floats in [0, 1] rather than levels to 255."""
    if not np.issubdtype(pixels.dtype, np.floating):
        lowest, highest = (0, 0) if pixels.dtype == np.uint8 else (pixels.min(), pixels.max())
        if lowest < 0 or highest > 255:
            raise ValueError(f"whole pixel values are in 0..255, got {lowest}..{highest}")
        return False
    if ((pixels >= 0) & (pixels <= 1)).all():
        return not np.isin(pixels, (0.0, 1.0)).all()
    if ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all():
        return False
    raise ValueError(
        f"an image of floats is resized from [0, 1] or from whole levels to 255, got values from "
        f"{pixels.min()} to {pixels.max()}; pass do_resize=False for values of another range"
    )


def check_fits(size: Sequence[int], padded: Sequence[int]) -> None:
    if size[0] > padded[0] or size[1] > padded[1]:
        raise ValueError(
            f"an image cannot be padded from {tuple(size)} to a smaller {tuple(padded)}; raise "
            "pad_size, or lower size"
        )


def pad_array(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns the array with zeros below and to the right."""
    check_fits(array.shape[-2:], size)
    if array.shape[-2:] == tuple(size):
        return array
    padded = np.zeros((*array.shape[:-2], *size), array.dtype)
    padded[..., : array.shape[-2], : array.shape[-1]] = array
    return padded
