"""Models that are simple enough to know what they see."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskformer.image_processor import MaskFormerImageProcessor


class ColourModel(nn.Module):
    """Sees colours: pictures drawn in a palette come back as segments, exactly.

    Each query stands for one colour of the palette and for the label that goes with it. It is found
    where a picture has its colour, as a real model finds things where they are. Masks have the
    picture's own resolution.
    """

    def __init__(self, palette: np.ndarray, labels: list[int], *, num_labels: int) -> None:
        super().__init__()
        self.palette = nn.Parameter(torch.from_numpy(palette).float() / 255)
        self.labels = labels
        self.num_labels = num_labels

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        distance = (pixel_values[0][None] - self.palette[:, :, None, None]).abs().amax(1)
        is_there = distance < 0.01
        class_logits = torch.full((len(self.labels), self.num_labels + 1), -12.0)
        class_logits[:, -1] = 0
        for query, label in enumerate(self.labels):
            class_logits[query, label] = 12.0 if is_there[query].any() else -12.0
        masks = torch.where(is_there, 12.0, -12.0)
        return SimpleNamespace(
            class_queries_logits=class_logits[None], masks_queries_logits=masks[None]
        )


class PatchModel(nn.Module):
    """Sees something different in every patch of a photo, and something else in its mirror image.

    Masks have a quarter of the picture's resolution, as a real model's.
    """

    def __init__(self, *, num_queries: int = 8, num_labels: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(num_queries, 3, 8, 8, generator=generator)
        self.weight = nn.Parameter(weight - weight.mean((2, 3), keepdim=True) / 2)
        labels = torch.arange(num_queries) % num_labels
        scores = torch.linspace(3, 4, num_queries)
        logits = nn.functional.one_hot(labels, num_labels + 1) * scores[:, None]
        self.class_logits = nn.Parameter(logits)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        masks = nn.functional.conv2d(pixel_values, self.weight, stride=4, padding=2)
        return SimpleNamespace(
            class_queries_logits=self.class_logits.expand(len(masks), -1, -1),
            masks_queries_logits=masks,
        )


def scenery(size: tuple[int, int], *, seed: int = 0) -> Image.Image:
    """Colours that change slowly over the picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def plain_processor(**settings) -> MaskFormerImageProcessor:
    """Gives pixels as they are, in [0, 1]."""
    return MaskFormerImageProcessor(do_resize=False, do_normalize=False, **settings)


def palette(number: int) -> np.ndarray:
    """Colours that are far from one another."""
    steps = np.arange(number)
    return np.stack([steps % 4 * 80, steps // 4 % 4 * 80, steps // 16 % 4 * 80], 1).astype(np.uint8)


def drawn_scene(random: np.random.Generator, *, size, num_things: int):
    """Two kinds of ground, and boxes on it that do not touch: the picture and its places.

    Places are 0 for the first kind of ground, 1 for the second, and from 2 one for each box.
    """
    height, width = size
    places = np.zeros(size, int)
    places[height // 2 :] = 1
    for place in range(2, num_things + 2):
        for _ in range(50):
            tall, wide = random.integers(3, [height // 3, width // 3])
            top, left = random.integers(0, [height - tall, width - wide])
            margin = places[max(top - 1, 0) : top + tall + 1, max(left - 1, 0) : left + wide + 1]
            if (margin < 2).all():
                places[top : top + tall, left : left + wide] = place
                break
    return Image.fromarray(palette(num_things + 2)[places]), places
