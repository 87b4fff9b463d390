"""Photographing: what a camera does to a picture. Exposure, lens, sensor."""

from random import Random

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

from pipeline.scenes.noise import grain


def photograph(
    random: Random, canvas: Float32[np.ndarray, "h w 3"], *, is_dark: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels: contrast and colour vary, corners are darker, edges softer, dark ones noisier."""
    height, width = canvas.shape[:2]
    exposure = random.uniform(0.9, 1.1)
    gain = np.array([exposure * random.uniform(0.97, 1.03) for _ in range(3)], np.float32)
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)
    corners = 1 - random.uniform(0, 0.14) * (v**2 + u**2)
    exposed = canvas * (gain * corners[..., None])
    blur = random.choice((0.0, 0.3, 0.45, 0.7))
    image = Image.fromarray(exposed.clip(0, 255).astype(np.uint8))
    if blur:
        image = image.filter(ImageFilter.BoxBlur(blur * height / 256))
    noise = grain()
    top = random.randint(0, max(0, noise.shape[0] - height))
    left = random.randint(0, max(0, noise.shape[1] - width))
    piece = noise[top : top + height, left : left + width]
    if piece.shape != canvas.shape:
        piece = np.resize(noise, canvas.shape)
    deviation = random.uniform(3, 8) if is_dark else random.choice((0.0, 1.5, 3.0, 6.0))
    noisy = np.asarray(image) + piece * np.float32(deviation / 32)
    return noisy.clip(0, 255).astype(np.uint8)
