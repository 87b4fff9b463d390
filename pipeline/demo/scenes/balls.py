"""Draws balls: plain, banded, ringed, spotted, or with coloured sectors."""

import math
from dataclasses import replace
from random import Random

import numpy as np

from pipeline.demo.scenes.drawing import Drawing, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_COLOURS: tuple[Colour, ...] = (
    (220, 50, 50), (50, 100, 200), (245, 200, 50), (60, 160, 90), (240, 130, 40), (160, 70, 170),
    (240, 240, 240), (240, 140, 180),
)  # fmt: skip


def draw_ball(random: Random, *, scale: float, light: Light) -> Sprite:
    radius = random.choice((0.2, 0.25, 0.35, 0.35, 0.5, 0.65)) * random.uniform(0.85, 1.2)
    drawing = Drawing(left=-radius, right=radius, top=2 * radius, scale=scale)
    colours = random.sample(_COLOURS, 3)
    first, second, third = (varied(random, colour, spread=14) for colour in colours)
    middle = (0.0, radius)
    drawing.ellipse(middle, (radius, radius), first)
    pattern = random.choice(("plain", "sectors", "spots", "band", "ring"))
    if pattern == "sectors":
        tilt = random.uniform(0, 60)
        for sector in range(3):
            start = tilt + 120 * sector
            drawing.pie(middle, radius, start=start, stop=start + 60, c=second)
        drawing.ellipse(middle, (radius * 0.24, radius * 0.24), third)
    elif pattern == "spots":
        for spot in range(6):
            angle = spot * math.tau / 6 + 0.4
            at = math.cos(angle) * radius * 0.66, radius * (1 + math.sin(angle) * 0.66)
            drawing.ellipse(at, (radius * 0.19, radius * 0.19), second)
        drawing.ellipse(middle, (radius * 0.24, radius * 0.24), second)
    elif pattern == "band":
        high = radius * 0.32
        wide = radius * math.cos(math.asin(0.32))
        drawing.rectangle(-wide, radius - high, wide, radius + high, second)
    elif pattern == "ring":
        drawing.ellipse(middle, (radius * 0.7, radius * 0.7), second)
        drawing.ellipse(middle, (radius * 0.4, radius * 0.4), first)
    shine = radius * 0.16
    at = light.side * radius * 0.36, radius * 1.42
    drawing.ellipse(at, (shine, shine), scaled((255, 255, 255), 0.96))
    return _rounded(drawing.sprite(random, texture=0.02), light=light)


def _rounded(sprite: Sprite, *, light: Light) -> Sprite:
    """Darkens a sprite away from the light."""
    rows, columns = sprite.alpha.shape
    across = light.side * np.linspace(-1, 1, columns, dtype=np.float32)
    down = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    shade = (0.86 + 0.16 * across) * (1.12 - 0.42 * down)
    return replace(sprite, colours=sprite.colours * shade)
