"""Chooses the courses of water and roads on the ground, in metres."""

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from jaxtyping import Float32

from pipeline.demo.scenes.camera import Camera
from pipeline.demo.scenes.noise import look_up

WaterKind = Literal["none", "lake", "river", "coast", "sea"]
RoadKind = Literal["none", "along", "across", "both"]


@dataclass(frozen=True, kw_only=True)
class Band:
    """A winding strip: a road or a river."""

    offset: float
    """Metres from the camera to the start of its middle line: to the right, or away."""
    slope: float
    bend: float
    wave: float
    half_width: float
    is_across: bool
    """True if it runs from left to right, False if away from the camera."""

    def middle(self, along: float) -> float:
        """Returns the x of the middle line at a z; if it runs across, the z at an x."""
        return float(self._middle(np.array(along, np.float32)))

    def inside(
        self, x: Float32[np.ndarray, "r w"], z: Float32[np.ndarray, "r 1"]
    ) -> Float32[np.ndarray, "r w"]:
        """Returns the metres to the nearer edge, below 0 outside."""
        return self.half_width - np.abs(self.from_middle(x, z))

    def from_middle(
        self, x: Float32[np.ndarray, "r w"], z: Float32[np.ndarray, "r 1"]
    ) -> Float32[np.ndarray, "r w"]:
        return z - self._middle(x) if self.is_across else x - self._middle(z)

    def _middle(self, along: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        swing = self.bend * np.sin(along * (1 / self.wave))
        return self.offset + self.slope * along + swing


@dataclass(frozen=True, kw_only=True)
class Water:
    """A lake, a river, or everything beyond a coast."""

    kind: WaterKind
    band: Band
    """The river, or the coast's line."""
    side: int = 1
    """The side of a coast that is water, 1 or -1."""

    def inside(
        self, x: Float32[np.ndarray, "r w"], z: Float32[np.ndarray, "r 1"]
    ) -> Float32[np.ndarray, "r w"]:
        """Returns the metres to the shore, below 0 on land."""
        rough = 0.4 * look_up(x * 9, z * 9 + 0 * x, roughness=3.0)
        if self.kind == "lake":
            across = (x - self.band.slope) / (2.2 * self.band.half_width)
            away = (z - self.band.offset) / self.band.half_width
            return self.band.half_width * (1 - np.hypot(across, away)) + 3 * rough
        if self.kind == "river":
            return self.band.inside(x, z) + rough
        return self.band.from_middle(x, z) * self.side + rough


@dataclass(frozen=True, kw_only=True)
class Land:
    """The water and the roads of a scene."""

    water: Water | None
    roads: tuple[Band, ...]
    road_over_water: bool
    """True if the road crosses the water, as on a dam."""


def choose_land(random: Random, *, water: WaterKind, road: RoadKind, camera: Camera) -> Land:
    near = camera.nearest
    roads = []
    if road in ("along", "both"):
        roads.append(
            Band(
                offset=random.uniform(-5, 5),
                slope=random.uniform(-0.25, 0.25),
                bend=random.choice((0.0, random.uniform(1, 5))),
                wave=random.uniform(1.2, 4.0) * near,
                half_width=random.uniform(1.2, 4.0),
                is_across=False,
            )
        )
    if road in ("across", "both"):
        roads.append(
            Band(
                offset=near * random.uniform(1.25, 2.4),
                slope=random.uniform(-0.2, 0.2),
                bend=random.choice((0.0, random.uniform(0.3, 1.5))),
                wave=random.uniform(8, 20),
                half_width=random.uniform(1.6, 3.6),
                is_across=True,
            )
        )
    return Land(
        water=None if water == "none" else _water(random, water, near=near),
        roads=tuple(roads),
        road_over_water=random.random() < 0.3,
    )


def _water(random: Random, kind: WaterKind, *, near: float) -> Water:
    is_across = kind == "sea" or (kind == "river" and random.random() < 0.6)
    # A lake's middle is `offset` away and `slope` to the right.
    if kind == "lake":
        offset, slope = near * random.uniform(1.8, 3.2), random.uniform(-1.2, 1.2) * near * 0.6
        half_width = offset * random.uniform(0.25, 0.5)
    elif is_across:
        offset, slope = near * random.uniform(1.2, 2.8), random.uniform(-0.25, 0.25)
        half_width = offset * random.uniform(0.15, 0.4)
    else:
        offset, slope = random.uniform(-0.5, 0.5) * near * 0.5, random.uniform(-0.45, 0.45)
        half_width = near * random.uniform(0.2, 0.45)
    band = Band(
        offset=offset,
        slope=slope,
        bend=random.uniform(0.2, 0.16 * near + 0.3),
        wave=random.uniform(4, 18),
        half_width=half_width,
        is_across=is_across,
    )
    return Water(kind=kind, band=band, side=1 if kind == "sea" else random.choice((-1, 1)))
