"""Paints the ground up to the horizon: land, water and roads, with their labels."""

from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Bool, Float32

from pipeline.demo.scenes.camera import Camera
from pipeline.demo.scenes.land import Band, Land
from pipeline.demo.scenes.light import Colour, Light, mixed, rgb, varied
from pipeline.demo.scenes.noise import look_up

_SOILS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((92, 140, 62), (122, 160, 74)),
    "meadow": ((104, 150, 66), (84, 128, 60)),
    "straw": ((178, 160, 96), (146, 140, 84)),
    "sand": ((222, 200, 152), (204, 178, 130)),
    "snow": ((236, 240, 248), (214, 222, 236)),
    "earth": ((138, 104, 74), (116, 88, 64)),
    "heath": ((122, 128, 74), (136, 104, 112)),
}
_FLOWERS: tuple[Colour, ...] = ((240, 220, 80), (230, 90, 90), (245, 245, 245), (170, 110, 200))
_ROADS: tuple[Colour, ...] = (
    (92, 92, 96), (112, 110, 110), (74, 76, 84), (160, 138, 108), (150, 146, 140), (146, 104, 90),
)  # fmt: skip
_WATERS: tuple[Colour, ...] = ((38, 92, 122), (50, 112, 128), (44, 78, 100), (72, 116, 110))


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Masks of the ground, in the rows from the camera's `first_row` down."""

    colours: Float32[np.ndarray, "3 rows w"]
    is_water: Bool[np.ndarray, "rows w"]
    is_road: Bool[np.ndarray, "rows w"]


def choose_soil(random: Random, *, has_beach: bool) -> str:
    if has_beach and random.random() < 0.45:
        return "sand"
    return random.choices(list(_SOILS), weights=(26, 20, 12, 6, 14, 10, 12))[0]


def paint_ground(random: Random, *, soil: str, land: Land, camera: Camera, light: Light) -> Ground:
    x, z = camera.x, camera.z
    # Noise finer than a pixel would not show.
    fade = 1 / (1 + 3 * z**2 / (camera.focal * camera.eye))
    tint = rgb(light.tint)
    colours = _soil(random, soil, x=x, z=z, fade=fade)
    is_water = np.zeros(x.shape, bool)
    if land.water is not None:
        inside = land.water.inside(x, z)
        _paint_shore(random, colours, inside=inside)
        colours *= tint
        is_water = inside > 0
        water = _water(random, camera=camera, light=light)
        share = _coverage(inside)
        colours += share * (water - colours)
    else:
        colours *= tint
    is_road = np.zeros(x.shape, bool)
    paving = rgb(varied(random, random.choice(_ROADS), spread=10))
    for road in land.roads:
        inside = road.inside(x, z)
        is_free = land.road_over_water | ~is_water
        painted = _road(random, road, paving=paving, x=x, z=z, fade=fade) * tint
        colours += (_coverage(inside) * is_free) * (painted - colours)
        is_road |= (inside > 0) & is_free
        is_water &= ~is_road
    haze = 1 - np.exp(-z / light.haze_metres)
    colours += haze * (rgb(light.horizon) - colours)
    return Ground(colours=colours, is_water=is_water, is_road=is_road)


def _soil(
    random: Random,
    soil: str,
    *,
    x: Float32[np.ndarray, "r w"],
    z: Float32[np.ndarray, "r 1"],
    fade: Float32[np.ndarray, "r 1"],
) -> Float32[np.ndarray, "3 r w"]:
    first, second = (rgb(varied(random, each, spread=16)) for each in _SOILS[soil])
    start = random.uniform(0, 1000)
    away = z + 0 * x
    patches = look_up(x * 5 + start, away * 5, roughness=2.2)
    colours = first + (patches * 0.35 + 0.5).clip(0, 1) * (second - first)
    fine = look_up(x * 22 + start, away * 22, roughness=0.6)
    strength = 0.035 if soil in ("sand", "snow") else 0.1
    colours *= 1 + strength * fine * (0.3 + 0.7 * fade)
    if soil == "earth" or (soil in ("straw", "grass") and random.random() < 0.3):
        furrows = np.sin((x * random.uniform(0.6, 1) + away * random.uniform(-0.4, 0.4)) * 4)
        colours *= 1 + 0.09 * furrows * fade
    if soil == "meadow":
        flowers = look_up(x * 16 + start, away * 16, roughness=-0.4)
        is_flower = flowers + 0.7 * patches > 2.3
        colours = np.where(is_flower, rgb(random.choice(_FLOWERS)), colours)
    return colours.astype(np.float32)


def _paint_shore(
    random: Random,
    colours: Float32[np.ndarray, "3 r w"],
    *,
    inside: Float32[np.ndarray, "r w"],
) -> None:
    """Paints a strip of sand or stones, wet at the water's edge."""
    width = random.choice((0.4, 1.0, 2.5))
    shore = rgb(varied(random, random.choice(((206, 186, 140), (128, 118, 102))), spread=12))
    share = (1 + inside / width).clip(0, 1)
    colours += share * (shore * (1 - 0.25 * share) - colours)


def _water(random: Random, *, camera: Camera, light: Light) -> Float32[np.ndarray, "3 rows w"]:
    """Paints water: its own colour near by, the sky's far away, and waves."""
    deep = varied(random, random.choice(_WATERS), spread=12)
    red, green, blue = (c * t for c, t in zip(deep, light.tint, strict=True))
    z = camera.z
    far = z / (z + 6 * camera.eye)
    sky = rgb(mixed(light.horizon, light.zenith, 0.45))
    colours = rgb((red, green, blue)) * (1 - far) + 0.92 * sky * far
    u = np.arange(camera.width, dtype=np.float32)
    v = np.arange(len(z), dtype=np.float32)[:, None]
    wind, start = random.uniform(0.03, 0.13), random.uniform(0, 900)
    # Waves are wider near by: their pixels grow with the square root of the row.
    waves = look_up(u * 0.45 + start + 0 * v, 70 * np.sqrt(v + 4) + 0 * u, roughness=1.0)
    colours = colours * (1 + wind * waves)
    if light.shadow_depth > 0.3:
        beam = np.exp(-(((u / camera.width - 0.5 - 0.3 * light.side) / 0.13) ** 2))
        colours += (waves > 1.1) * beam * (rgb(light.horizon) * 0.35)
    return colours.astype(np.float32)


def _road(
    random: Random,
    road: Band,
    *,
    paving: Float32[np.ndarray, "3 1 1"],
    x: Float32[np.ndarray, "r w"],
    z: Float32[np.ndarray, "r 1"],
    fade: Float32[np.ndarray, "r 1"],
) -> Float32[np.ndarray, "3 r w"]:
    away = z + 0 * x
    fine = look_up(x * 24, away * 24, roughness=0.8)
    colours = paving * (1 + 0.07 * fine * (0.25 + fade))
    aside = road.from_middle(x, z)
    along = x if road.is_across else away
    if road.half_width > 2.2 and random.random() < 0.75:
        dashes = (np.abs(aside) < 0.14) & (along % 4 < 2.4)
        edges = np.abs(np.abs(aside) - road.half_width + 0.35) < 0.1
        paint = (dashes | edges) if random.random() < 0.6 else dashes
        colours = np.where(paint, rgb((226, 224, 212)), colours)
    elif road.half_width < 2.2:
        tracks = np.abs(np.abs(aside) - 0.55 * road.half_width) < 0.3
        colours = colours * np.where(tracks, np.float32(0.9), np.float32(1))
    return colours.astype(np.float32)


def _coverage(inside: Float32[np.ndarray, "r w"]) -> Float32[np.ndarray, "r w"]:
    """Returns the share of each pixel that lies inside, from the distance's change per pixel."""
    slope = np.full_like(inside, 1e-3)
    slope[1:] += np.abs(inside[1:] - inside[:-1])
    slope[:, 1:] += np.abs(inside[:, 1:] - inside[:, :-1])
    return (inside / slope + 0.5).clip(0, 1)
