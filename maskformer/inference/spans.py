"""Where windows lie along one side of an image that is too large for one."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32


def spans(length: int, *, window: int, overlap: int) -> "list[Span]":
    """The fewest windows that cover `length` and overlap by at least so much, evenly spread."""
    window = min(window, length)
    count = 1 if window == length else math.ceil((length - overlap) / (window - overlap))
    starts = [round(place) for place in np.linspace(0, length - window, count)]
    cuts = [0, *((one + window + other) // 2 for one, other in pairwise(starts)), length]
    return [
        Span(start=start, stop=start + window, core=slice(*core))
        for start, core in zip(starts, pairwise(cuts), strict=True)
    ]


def window_grid(size: tuple[int, int], *, windows: tuple[int, int]) -> "list[tuple[Span, Span]]":
    """Rows and columns of windows over an image, each a quarter wider than asked, to overlap."""
    rows, columns = (
        spans(length, window=window + window // 4, overlap=window // 4)
        for length, window in zip(size, windows, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A window along one side of the image."""

    start: int
    stop: int
    core: slice
    """The part of the image that is nearer to this window's middle than to its neighbours'."""

    def weights(self) -> Float32[np.ndarray, " length"]:
        """1 in the middle, falling to nearly 0 at an end with a neighbour beyond it."""
        place = np.arange(self.start, self.stop) + 0.5
        # The overlap reaches as far beyond the core as into it.
        before, after = self.core.start - self.start, self.stop - self.core.stop
        weights = np.ones(len(place), np.float32)
        if before:
            weights = np.minimum(weights, (place - self.start) / (2 * before))
        if after:
            weights = np.minimum(weights, (self.stop - place) / (2 * after))
        return weights.astype(np.float32)
