"""Applies the effects of a camera to a picture: exposure, lens, sensor."""

from random import Random

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

from pipeline.demo.scenes.light import rgb
from pipeline.demo.scenes.noise import grain


def photograph(
    random: Random, canvas: Float32[np.ndarray, "3 h w"], *, is_dark: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Varies exposure and colour, darkens corners, softens edges, adds noise; returns pixels."""
    _, height, width = canvas.shape
    exposure = random.uniform(0.9, 1.1)
    red, green, blue = (exposure * random.uniform(0.97, 1.03) for _ in range(3))
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)
    corners = 1 - random.uniform(0, 0.14) * (v**2 + u**2)
    exposed = (canvas * (rgb((red, green, blue)) * corners)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(exposed, 0, -1)))
    blur = random.choice((0.0, 0.3, 0.45, 0.7))
    if blur:
        image = image.filter(ImageFilter.BoxBlur(blur * height / 256))
    deviation = random.uniform(3, 8) if is_dark else random.choice((0.0, 1.5, 3.0, 6.0))
    noise = grain(random, (height, width)) * np.float32(deviation / 32)
    return (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
