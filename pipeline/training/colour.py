"""Jitters colours as in SSD: brightness, contrast, saturation and hue, each with chance 1/2."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_BRIGHTNESS = 32.0
_CONTRAST = _SATURATION = (0.5, 1.5)
# The published code moves the hue by up to 18 of 180 steps.
_HUE = 0.1

_Table = UInt8[np.ndarray, "256"]


def colour_jitter(
    pixels: UInt8[np.ndarray, "height width 3"], *, random: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns jittered pixels. Contrast comes before saturation and hue, or after them."""
    levels = np.arange(256.0)
    # All values are drawn first, so that an unused one does not shift the others.
    does_brightness, does_contrast, does_saturation, does_hue, is_first = random.random(5) < 0.5
    brightness = random.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    contrast = random.uniform(*_CONTRAST)
    saturation = random.uniform(*_SATURATION)
    hue = random.uniform(-_HUE, _HUE)

    if does_brightness:
        levels = _bytes(levels + brightness).astype(np.float64)
    after = np.arange(256.0)
    if does_contrast and is_first:
        levels = levels * contrast
    elif does_contrast:
        after = after * contrast
    pixels = _looked_up(pixels, _bytes(levels))
    if does_saturation or does_hue:
        pixels = _turned(
            pixels,
            saturation=saturation if does_saturation else 1.0,
            hue=hue if does_hue else 0.0,
        )
    return _looked_up(pixels, _bytes(after))


def _turned(
    pixels: UInt8[np.ndarray, "height width 3"], *, saturation: float, hue: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Multiplies the saturation and moves the hue by a share of the circle, both in one pass.

    torchvision moves the hue of PIL images in the same way; its saturation mixes with grey, which
    gives other colours.
    """
    bands = list(Image.fromarray(pixels).convert("HSV").split())
    steps = np.arange(256)
    turn = round(hue * 256)
    bands[0] = bands[0].point(((steps + turn) % 256).tolist())
    bands[1] = bands[1].point(_bytes(steps * saturation).tolist())
    return np.asarray(Image.merge("HSV", bands).convert("RGB"))


def _bytes(levels: np.ndarray) -> _Table:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _looked_up(
    pixels: UInt8[np.ndarray, "height width 3"], table: _Table
) -> UInt8[np.ndarray, "height width 3"]:
    return pixels if np.array_equal(table, np.arange(256)) else np.take(table, pixels)
