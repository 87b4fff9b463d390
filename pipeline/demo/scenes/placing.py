"""Chooses the theme of a scene, and places things on its ground."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from pipeline.demo.scenes.camera import Camera
from pipeline.demo.scenes.ground import Ground
from pipeline.demo.scenes.land import Band, Land, RoadKind, WaterKind

ThingLabel = Literal["house", "tree", "boat", "car", "person", "ball"]
Surface = Literal["land", "road", "water"]

_TRIES = 14


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The kinds of water, roads and things of a scene; `counts` are the least and the most."""

    waters: tuple[WaterKind, ...]
    roads: tuple[RoadKind, ...]
    counts: Mapping[ThingLabel, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A thing at a point of the ground."""

    label: ThingLabel
    x: float
    z: float
    is_on: Surface
    is_across: bool = True
    """True if a car goes from left to right, False if away from the camera."""


@dataclass(frozen=True, kw_only=True)
class _Habit:
    radius: float
    """Metres around it that stay free of other things."""
    smallest: float
    largest: float
    """Bounds on its pixels per metre, in a picture of 256 rows."""
    surfaces: tuple[Surface, ...]
    flocks: float
    """Share that stands near another of its kind."""


_HABITS: Mapping[ThingLabel, _Habit] = {
    "house": _Habit(radius=5.5, smallest=2.0, largest=17, surfaces=("land",), flocks=0.35),
    "boat": _Habit(radius=4.0, smallest=2.6, largest=26, surfaces=("water",), flocks=0.2),
    "car": _Habit(radius=2.5, smallest=5.0, largest=44, surfaces=("land", "road"), flocks=0.0),
    "tree": _Habit(radius=0.9, smallest=2.4, largest=26, surfaces=("land",), flocks=0.5),
    "person": _Habit(radius=0.45, smallest=9.5, largest=72, surfaces=("land", "road"), flocks=0.45),
    "ball": _Habit(
        radius=0.5, smallest=12, largest=95, surfaces=("land", "land", "road", "water"), flocks=0.0
    ),
}

_THEMES = (
    Theme(  # a village
        waters=("none", "none", "river", "lake"),
        roads=("along", "both", "across"),
        counts={
            "house": (3, 7), "tree": (2, 8), "boat": (0, 1), "car": (1, 3), "person": (1, 5),
            "ball": (0, 2),
        },
    ),
    Theme(  # a harbour
        waters=("sea", "coast", "coast", "river"),
        roads=("none", "across", "along"),
        counts={
            "house": (1, 5), "tree": (0, 4), "boat": (2, 7), "car": (0, 3), "person": (1, 5),
            "ball": (0, 2),
        },
    ),
    Theme(  # a street
        waters=("none",),
        roads=("along", "across", "both"),
        counts={"house": (3, 8), "tree": (1, 5), "car": (2, 7), "person": (2, 7), "ball": (0, 2)},
    ),
    Theme(  # a beach
        waters=("sea", "sea", "coast", "lake"),
        roads=("none", "none", "across"),
        counts={
            "house": (0, 2), "tree": (1, 5), "boat": (1, 4), "car": (0, 1), "person": (3, 9),
            "ball": (2, 5),
        },
    ),
    Theme(  # the country
        waters=("none", "lake", "river"),
        roads=("none", "along", "across"),
        counts={
            "house": (0, 2), "tree": (5, 16), "boat": (0, 2), "car": (0, 2), "person": (0, 3),
            "ball": (0, 1),
        },
    ),
    Theme(  # a park
        waters=("none", "lake", "lake"),
        roads=("along", "none", "both"),
        counts={
            "house": (0, 1), "tree": (3, 10), "boat": (0, 3), "car": (0, 1), "person": (3, 9),
            "ball": (2, 5),
        },
    ),
)  # fmt: skip


def choose_theme(random: Random) -> Theme:
    return random.choice(_THEMES)


def choose_placements(
    random: Random, *, theme: Theme, land: Land, ground: Ground, camera: Camera
) -> list[Placement]:
    """Chooses placements without collisions, each on a suitable surface, far ones first."""
    placed: list[Placement] = []
    for label in _HABITS:
        for _ in range(random.randint(*theme.counts.get(label, (0, 0)))):
            for _ in range(_TRIES):
                placement = _propose(random, label, placed=placed, land=land, camera=camera)
                if placement is None or not _suits(placement, ground=ground, camera=camera):
                    continue
                if not any(_collide(placement, other) for other in placed):
                    placed.append(placement)
                    break
    return sorted(placed, key=lambda placement: -placement.z)


def _propose(
    random: Random, label: ThingLabel, *, placed: list[Placement], land: Land, camera: Camera
) -> Placement | None:
    habit = _HABITS[label]
    surface = random.choice(habit.surfaces)
    kin = [placement for placement in placed if placement.label == label]
    if kin and random.random() < habit.flocks:
        near = random.choice(kin)
        reach = 3.5 * habit.radius + 1
        z = near.z + random.uniform(-reach, reach)
        x = near.x + random.uniform(-reach, reach)
        return Placement(label=label, x=x, z=z, is_on=near.is_on) if z > 1 else None
    finer = camera.height / 256
    # Some stand slightly below the lower edge, which cuts off their feet.
    largest = min(habit.largest * finer, camera.scale(camera.nearest) * 1.06)
    if largest <= habit.smallest * finer:
        return None
    share = random.random()
    scale = habit.smallest * finer * (largest / (habit.smallest * finer)) ** share
    z = camera.focal / scale
    x = camera.x_at(random.uniform(-0.04, 1.04) * camera.width, z)
    if label == "car" and land.roads and random.random() < 0.85:
        return _on_road(random, random.choice(land.roads), x=x, z=z)
    along = [road for road in land.roads if not road.is_across]
    if label == "house" and along and random.random() < 0.5:
        aside = along[0].half_width + random.uniform(5, 10)
        x = along[0].middle(z) + random.choice((-1, 1)) * aside
    return Placement(label=label, x=x, z=z, is_on=surface, is_across=random.random() < 0.7)


def _on_road(random: Random, road: Band, *, x: float, z: float) -> Placement:
    lane = road.half_width * random.choice((-0.45, 0.45))
    if road.is_across:
        return Placement(label="car", x=x, z=max(1.0, road.middle(x) + lane), is_on="road")
    return Placement(label="car", x=road.middle(z) + lane, z=z, is_on="road", is_across=False)


def _suits(placement: Placement, *, ground: Ground, camera: Camera) -> bool:
    """True if the picture shows the thing's surface below its whole width."""
    habit = _HABITS[placement.label]
    if not camera.nearest * 0.9 < placement.z < camera.focal / (habit.smallest * 0.8):
        return False
    row, column = camera.point(placement.x, placement.z)
    row = min(row, camera.height - 1) - camera.first_row
    reach = round(0.8 * habit.radius * camera.scale(placement.z))
    if row < 1 or not -reach < column < camera.width + reach:
        return False
    columns = (min(max(column + at, 0), camera.width - 1) for at in (-reach, 0, reach))
    wants = placement.is_on
    for each in columns:
        is_water = bool(ground.is_water[row, each])
        found = "water" if is_water else "road" if ground.is_road[row, each] else "land"
        if found != wants:
            return False
    return True


def _collide(first: Placement, second: Placement) -> bool:
    reach = _HABITS[first.label].radius + _HABITS[second.label].radius
    return math.hypot(first.x - second.x, 1.5 * (first.z - second.z)) < reach
