"""Resizing: an image of any mode and size to the RGB pixels that the network is given.

Takes decoded PIL images or arrays; `image_processor.py` normalises what comes out. Needs no torch,
so that the processes that read and decode start without it.

Two rules decide the size. `transformers` scales by the short edge and then stretches each side to
a multiple of the divisor. `detectron2`, with which the published results were made, scales, rounds
both sides, and leaves the rest of the multiple to zeros that are added after normalisation.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import ExifTags, Image

ResizeRule = Literal["transformers", "detectron2"]
Size = int | Sequence[int] | Mapping[str, Any]
HeightWidth = tuple[int, int]

DEFAULT_LONGEST_EDGE = 1333
SIZE_FORMS: tuple[frozenset[str], ...] = (
    frozenset({"shortest_edge", "longest_edge"}),
    frozenset({"shortest_edge"}),
    frozenset({"height", "width"}),
    frozenset({"max_height", "max_width"}),
)

DEVICE_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
"""The filters that `device_resize.py` knows."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HIGH_BYTE_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, as its EXIF orientation says, in mode RGB.

    Alpha is dropped, as `convert("RGB")` does. Grayscale of 16 bits keeps its high byte, where
    Pillow would clip all but the darkest 256 levels. Applying this twice changes nothing more.
    """
    transpose = _UPRIGHT.get(_orientation(image))
    if transpose is not None:
        image = image.transpose(transpose)
        # The copy carries the orientation along, and the next reader would turn it again.
        image.info = {}
    if image.mode == "RGB":
        return image
    if image.mode in _HIGH_BYTE_MODES:
        return _high_byte(image).convert("RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The same colours as straight to RGB, without Pillow's warning about lost transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or where the EXIF block is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error):
        # The pixels are good whatever their metadata say; viewers show such images as stored.
        return 1


def _high_byte(image: Image.Image) -> Image.Image:
    """Grayscale of 16 bits (held in 16 or 32) in mode L."""
    values = np.asarray(image).astype(np.int32)
    return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))


def size_form(size: Size | None, *, max_size: int | None = None) -> dict[str, int]:
    """`size` in one of the forms of `SIZE_FORMS`.

    An int is the shortest edge, with `max_size` (1333 when None, as in transformers 4) as the
    longest; a pair is (height, width); None is 800 and `max_size`. In a dict, `shortest_edge`
    alone sets no limit to the longest, and `max_size` adds one.
    """
    longest = DEFAULT_LONGEST_EDGE if max_size is None else int(max_size)
    if size is None:
        return {"shortest_edge": 800, "longest_edge": longest}
    if isinstance(size, int):
        return _checked({"shortest_edge": size, "longest_edge": longest}, given=size)
    if not isinstance(size, Mapping):
        if len(size) != 2:
            raise ValueError(f"a size given as a sequence must be (height, width), got {size}")
        return _checked({"height": size[0], "width": size[1]}, given=size)
    form = {key: value for key, value in size.items() if value is not None}
    if max_size is not None and set(form) == {"shortest_edge"}:
        form["longest_edge"] = longest
    return _checked(form, given=size)


def _checked(form: dict[str, Any], *, given: object) -> dict[str, int]:
    if frozenset(form) not in SIZE_FORMS:
        forms = ", ".join(str(sorted(keys)) for keys in SIZE_FORMS)
        raise ValueError(f"size must have exactly the keys of one of {forms}, got {given}")
    wrong = {key: value for key, value in form.items() if int(value) != value or value < 1}
    if wrong:
        raise ValueError(f"sizes are whole pixels, at least 1, got {wrong} in size={given}")
    return {key: int(value) for key, value in form.items()}


def resized_size(
    image_size: HeightWidth,
    *,
    size: Size | None = None,
    size_divisor: int = 32,
    rule: ResizeRule = "transformers",
) -> HeightWidth:
    """The (height, width) that an image of `image_size` is resized to, before any padding.

    A `size_divisor` of 0 asks for no multiple.
    """
    form = size_form(size)
    if min(image_size) < 1:
        raise ValueError(f"an image has at least one pixel, got (height, width) {image_size}")
    if rule == "detectron2":
        return _rounded_size(image_size, form)
    return padded_size(_truncated_size(image_size, form), size_divisor=size_divisor)


def padded_size(image_size: HeightWidth, *, size_divisor: int = 32) -> HeightWidth:
    """Both sides raised to the next multiple of `size_divisor`; as they are when that is 0."""
    if size_divisor <= 0:
        return image_size
    height, width = (math.ceil(side / size_divisor) * size_divisor for side in image_size)
    return height, width


def _truncated_size(image_size: HeightWidth, form: dict[str, int]) -> HeightWidth:
    """The `transformers` rule ahead of its stretch: the sides are cut off, not rounded."""
    height, width = image_size
    if "height" in form:
        return form["height"], form["width"]
    if "max_height" in form:
        scale = min(form["max_height"] / height, form["max_width"] / width)
        return max(int(height * scale), 1), max(int(width * scale), 1)
    short, long = min(image_size), max(image_size)
    target: float = form["shortest_edge"]
    if long / short * target > form.get("longest_edge", math.inf):
        target = form["longest_edge"] * short / long
    if short == round(target):
        return image_size
    # The long side follows the unrounded short one.
    short_side = max(round(target), 1)
    long_side = max(int(target * long / short), 1)
    return (short_side, long_side) if height <= width else (long_side, short_side)


def _rounded_size(image_size: HeightWidth, form: dict[str, int]) -> HeightWidth:
    """The `detectron2` rule: scale, cap, and round both sides half up."""
    height, width = image_size
    if "height" in form:
        return form["height"], form["width"]
    if "max_height" in form:
        scale = min(form["max_height"] / height, form["max_width"] / width)
        scaled_height, scaled_width = height * scale, width * scale
    else:
        shortest = form["shortest_edge"]
        scale = shortest / min(image_size)
        scaled_height, scaled_width = (
            (shortest, scale * width) if height < width else (scale * height, shortest)
        )
        longest = max(scaled_height, scaled_width)
        if longest > form.get("longest_edge", math.inf):
            scaled_height = scaled_height * (form["longest_edge"] / longest)
            scaled_width = scaled_width * (form["longest_edge"] / longest)
    return max(int(scaled_height + 0.5), 1), max(int(scaled_width + 0.5), 1)


def resize_image(
    image: Image.Image | UInt8[np.ndarray, "height width channels"],
    *,
    size: HeightWidth,
    resample: int = Image.Resampling.BILINEAR,
) -> UInt8[np.ndarray, "{size[0]} {size[1]} channels"]:
    """The image's pixels at `size`, by Pillow's filter (which averages when it shrinks)."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    height, width = size
    return np.array(image.resize((width, height), resample=Image.Resampling(resample)))


def resize_map(
    segmentation_map: Integer[np.ndarray, "height width"], *, size: HeightWidth
) -> Integer[np.ndarray, "{size[0]} {size[1]}"]:
    """A map of ids at `size`: each pixel takes the nearest id, whatever its integer type."""
    rows, columns = (
        _nearest(old, new) for old, new in zip(segmentation_map.shape, size, strict=True)
    )
    return segmentation_map[rows[:, None], columns]


def _nearest(old: int, new: int) -> Integer[np.ndarray, "{new}"]:
    """The old place that each new one is nearest to; in a tie the one that Pillow takes."""
    # Pillow steps from pixel to pixel, and its rounding errors add up as they do here.
    steps = np.full(new, old / new)
    steps[0] *= 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)
