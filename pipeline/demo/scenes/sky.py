"""Paints the sky, and hills before it, down to the horizon."""

from random import Random

import numpy as np
from jaxtyping import Bool, Float32

from pipeline.demo.scenes.camera import Camera
from pipeline.demo.scenes.light import Colour, Light, mixed, rgb, scaled
from pipeline.demo.scenes.noise import look_up, profile

_HILLS: tuple[Colour, ...] = (
    (84, 122, 80), (98, 112, 76), (120, 116, 92), (104, 110, 124), (70, 98, 84), (142, 118, 92),
)  # fmt: skip


def paint_sky(
    random: Random, canvas: Float32[np.ndarray, "3 h w"], *, camera: Camera, light: Light
) -> None:
    """Paints the rows above the ground: a gradient, sun or moon, stars, clouds."""
    rows = camera.first_row
    v = np.arange(rows, dtype=np.float32)[:, None] + 0.5
    u = np.arange(camera.width, dtype=np.float32)
    height = ((camera.horizon - v) / camera.height).clip(0.0, 1.0)
    low = np.exp(-height * 5)
    sky = canvas[:, :rows]
    sky[:] = rgb(light.zenith) * (1 - low) + rgb(light.horizon) * low
    _paint_sun(random, sky, u=u, v=v, camera=camera, light=light)
    if light.cloudiness:
        # Clouds are a flat layer, seen from below.
        away = 60 / (camera.horizon - v + 6)
        x = (u - camera.width / 2) * (away * random.uniform(1.2, 2.6))
        y = away * random.uniform(120, 220)
        start = random.randrange(1024), random.randrange(1024)
        dense = look_up(x + start[0], y + start[1] + 0 * x, roughness=2.2)
        share = ((dense + 2.2 * light.cloudiness - 1.3) * 0.8).clip(0, 0.92)
        share *= (height * 9).clip(0.15, 1)
        thick = 1.04 - 0.16 * share - 0.05 * dense
        sky += share * (rgb(light.cloud) * thick - sky)


def paint_hills(
    random: Random, canvas: Float32[np.ndarray, "3 h w"], *, camera: Camera, light: Light
) -> Bool[np.ndarray, "rows w"]:
    """Paints up to three ridges, far ones paler; returns the pixels above the horizon that
    they cover."""
    rows = camera.first_row
    covered = np.zeros((rows, camera.width), bool)
    ridges = random.choice((0, 1, 1, 2, 3))
    height = camera.height * random.uniform(0.05, 0.16)
    colour = random.choice(_HILLS)
    has_snow = ridges > 1 and random.random() < 0.4
    v = np.arange(rows, dtype=np.float32)[:, None]
    for ridge in range(ridges):
        nearness = (ridge + 1) / ridges
        roughness = random.choice((2.2, 2.6, 3.0))
        line = profile(random, camera.width, roughness=roughness)
        top = camera.horizon - height * (1.25 - 0.8 * nearness) * (1 + 0.55 * line.clip(-1.6, 2))
        above = v - top[None]
        mask = (above > 0) & (v < camera.horizon)
        haze = 0.75 - 0.45 * nearness
        if light.haze_metres < 100:
            haze = 0.93
        lit = _lit(scaled(colour, random.uniform(0.85, 1.1)), light)
        base = rgb(mixed(lit, light.horizon, haze))
        rough = look_up(
            np.arange(camera.width)[None] * 3 + 0 * above, above * 6 + 31 * ridge, roughness=1.4
        )
        painted = base * (1 + 0.07 * rough)
        if has_snow and ridge == 0:
            is_snow = above + 3 * rough < 0.45 * height
            snow = mixed(_lit((244, 246, 252), light), light.horizon, haze * 0.6)
            painted = np.where(is_snow, rgb(snow), painted)
        edge = above.clip(0, 1) * mask
        canvas[:, :rows] += edge * (painted - canvas[:, :rows])
        covered |= mask & (above >= 0.5)
    return covered


def _paint_sun(
    random: Random,
    sky: Float32[np.ndarray, "3 rows w"],
    *,
    u: Float32[np.ndarray, " w"],
    v: Float32[np.ndarray, "rows 1"],
    camera: Camera,
    light: Light,
) -> None:
    if light.cloudiness >= 0.95 or light.haze_metres < 100:
        return
    column = camera.width * (0.5 + light.side * random.uniform(0.15, 0.45))
    row = camera.horizon * random.uniform(0.15, 0.85)
    squared = (u - column) ** 2 + (v - row) ** 2
    if light.is_night:
        stars = np.random.default_rng(random.getrandbits(32)).random(sky.shape[1:]) > 0.997
        sky[:, stars] += np.float32(random.uniform(60, 150))
    radius = camera.height * random.uniform(0.018, 0.035)
    disc: Colour = (232, 232, 218) if light.is_night else (255, 250, 226)
    glow = np.exp(-np.sqrt(squared) / (radius * (1.2 if light.is_night else 5)))
    glow *= 0.35 if light.is_night else 0.6
    share = np.maximum(glow, (radius + 0.5 - np.sqrt(squared)).clip(0, 1))
    if random.random() < 0.75 or light.is_night:
        sky += share * (rgb(disc) - sky)


def _lit(colour: Colour, light: Light) -> Colour:
    red, green, blue = (value * factor for value, factor in zip(colour, light.tint, strict=True))
    return red, green, blue
