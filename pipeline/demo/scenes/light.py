"""Chooses time of day and weather: colours, direction of shadows, depth of haze."""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from jaxtyping import Float32

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of a scene."""

    tint: Colour
    """Factors of colours, 1 at noon."""
    zenith: Colour
    horizon: Colour
    shadow_depth: float
    """Share of the light that a shadow removes."""
    is_night: bool = False
    cloudiness: float = 0.3
    cloud: Colour = (250, 250, 252)
    haze_metres: float = 400.0
    """Distance after which two thirds of a colour are haze."""
    side: int = 1
    """Side of the sun: 1 right, -1 left."""
    shadow_x: float = -1.0
    """Metres of shadow to the right, for one metre of height."""
    shadow_z: float = 0.4
    """Metres of shadow away from the camera, for one metre of height."""

    def shaded(self, colour: Colour, *, side: int) -> Colour:
        """Returns the colour of a wall that faces this side."""
        factor = 1.06 if side == self.side else 0.72
        return scaled(colour, factor)


_TIMES = {
    "day": Light(
        tint=(1.0, 1.0, 0.98), zenith=(66, 124, 205), horizon=(186, 214, 238), shadow_depth=0.5
    ),
    "morning": Light(
        tint=(1.02, 0.93, 0.84), zenith=(112, 160, 214), horizon=(248, 222, 190),
        shadow_depth=0.42, haze_metres=220.0, cloud=(255, 236, 220),
    ),
    "overcast": Light(
        tint=(0.82, 0.85, 0.88), zenith=(150, 158, 168), horizon=(206, 210, 214),
        shadow_depth=0.2, cloudiness=1.0, cloud=(188, 193, 200), haze_metres=180.0,
    ),
    "evening": Light(
        tint=(1.0, 0.76, 0.6), zenith=(74, 84, 150), horizon=(255, 164, 96), shadow_depth=0.45,
        cloud=(255, 176, 150), haze_metres=260.0,
    ),
    "night": Light(
        tint=(0.42, 0.47, 0.64), zenith=(8, 13, 38), horizon=(46, 58, 98), shadow_depth=0.25,
        is_night=True, cloud=(52, 58, 84),
    ),
    "fog": Light(
        tint=(0.9, 0.92, 0.94), zenith=(196, 202, 208), horizon=(214, 218, 220),
        shadow_depth=0.1, cloudiness=0.0, haze_metres=70.0,
    ),
}  # fmt: skip
_WEIGHTS = {"day": 38, "morning": 16, "overcast": 14, "evening": 16, "night": 8, "fog": 6}


def rgb(colour: Colour) -> Float32[np.ndarray, "3 1 1"]:
    """Converts a colour for arithmetic with pictures, whose channels come first."""
    return np.array(colour, np.float32)[:, None, None]


def choose_light(random: Random) -> Light:
    (time,) = random.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))
    light = _TIMES[time]
    side = random.choice((-1, 1))
    long = 1.6 if time in ("morning", "evening") else 0.8
    strength = random.uniform(0.9, 1.1)
    return replace(
        light,
        tint=scaled(light.tint, strength),
        zenith=varied(random, light.zenith, spread=12),
        horizon=varied(random, light.horizon, spread=10),
        cloudiness=min(1.0, light.cloudiness * random.uniform(0.3, 2.2)),
        haze_metres=light.haze_metres * random.uniform(0.7, 1.8),
        side=side,
        shadow_x=-side * long * random.uniform(0.4, 1.3),
        shadow_z=random.choice((-1, 1)) * random.uniform(0.3, 1.2),
    )


def scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Mixes `share` of the second colour into the first."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def varied(random: Random, colour: Colour, *, spread: float) -> Colour:
    """Returns a random colour near this one."""
    common = random.uniform(-spread, spread)
    red, green, blue = (
        min(255.0, max(0.0, value + common + random.uniform(-spread, spread) / 2))
        for value in colour
    )
    return red, green, blue
