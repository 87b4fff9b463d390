"""Draws sizes of photographs as COCO has them, for counts of batches.

COCO's photographs come from Flickr at a long side of 640 pixels: most are 4:3 and 3:2, lying or
standing, the latter as 424 to 429 rows or columns by rounding; a few are square, 16:9, or 500
pixels long. The rest is cropped by hand. Nine in ten have a ratio of height to width between 0.6
and 1.5. The shares below are round figures for that, no counts.
"""

import numpy as np

HeightWidth = tuple[int, int]

_PER_THOUSAND: dict[HeightWidth, int] = {
    (480, 640): 215, (640, 480): 80, (375, 500): 42, (500, 375): 15,
    (427, 640): 150, (426, 640): 75, (425, 640): 42, (428, 640): 20, (424, 640): 15,
    (429, 640): 12, (423, 640): 8, (640, 427): 52, (640, 426): 22, (640, 425): 13,
    (333, 500): 15, (500, 333): 6, (360, 640): 20, (612, 612): 18, (640, 640): 10,
}  # fmt: skip
_SHORTEST_CROP = 300
_LYING = 0.7


def coco_sizes(count: int, *, seed: int = 0) -> list[HeightWidth]:
    """Returns sizes in a drawn order, the rest of a thousand with a drawn short side."""
    random = np.random.default_rng(seed)
    known = [size for size, share in _PER_THOUSAND.items() for _ in range(share)]
    sizes = []
    for place in random.integers(0, 1000, count):
        if place < len(known):
            sizes.append(known[place])
            continue
        short = int(random.integers(_SHORTEST_CROP, 640))
        sizes.append((short, 640) if random.random() < _LYING else (640, short))
    return sizes
