"""Decides how many images of one padded size go through a GPU's model at once.

`segmenter.py` asks before each batch. Launching a batch costs the same however many images it has,
so a shape's last few images join the batch before them. Memory bounds a batch three times: what the
model needs for each pixel of its input, the pixels that post-processing works at, and the images.
"""

import math
from collections.abc import Sequence

HeightWidth = tuple[int, int]

USUAL_IMAGES = 88
"""Of a batch where there are enough of one shape."""

MOST_IMAGES = 131
"""Images of a shape that still go as one batch. At 512 pixels photographs are 494 windows each, and
kernels of attention take 65,535."""

MOST_TARGET_PIXELS = 2**28
"""Of a batch's images at their own sizes: post-processing keeps some bytes for each."""


def next_batch(sizes: Sequence[HeightWidth], *, padded_size: HeightWidth, most_pixels: int) -> int:
    """Returns how many of the images come next, at least one: about equal shares of all.

    Args:
        sizes: of the images themselves, all of one padded size, in their order.
        padded_size: at the model's input.
        most_pixels: of the model's input that there is memory for.
    """
    height, width = padded_size
    largest = max(rows * columns for rows, columns in sizes)
    most = min(MOST_IMAGES, most_pixels // (height * width), MOST_TARGET_PIXELS // largest)
    batches = max(1, round(len(sizes) / USUAL_IMAGES), math.ceil(len(sizes) / max(1, most)))
    return math.ceil(len(sizes) / batches)
