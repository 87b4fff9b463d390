"""Draws a scene: a picture, and the label of each pixel.

Things are painted from far to near, and the map of ids with them: a pixel belongs to the last thing
that covers more than half of it. A scene is a function of its seed, index and size alone.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import UInt8

from pipeline.demo.scenes.balls import draw_ball
from pipeline.demo.scenes.boats import draw_boat
from pipeline.demo.scenes.camera import Camera, choose_camera
from pipeline.demo.scenes.cars import draw_car
from pipeline.demo.scenes.drawing import Sprite
from pipeline.demo.scenes.ground import choose_soil, paint_ground
from pipeline.demo.scenes.houses import draw_house
from pipeline.demo.scenes.land import choose_land
from pipeline.demo.scenes.light import Light, choose_light
from pipeline.demo.scenes.painting import Standing, paint_reflections, paint_shadows, paint_thing
from pipeline.demo.scenes.people import draw_person
from pipeline.demo.scenes.photograph import photograph
from pipeline.demo.scenes.placing import Placement, choose_placements, choose_theme
from pipeline.demo.scenes.sky import paint_hills, paint_sky
from pipeline.demo.scenes.trees import choose_season, draw_tree

LABELS = ("sky", "ground", "water", "road", "house", "tree", "boat", "car", "person", "ball")
"""The labels, by label id."""
THINGS = ("house", "tree", "boat", "car", "person", "ball")

_SKY, _GROUND, _WATER, _ROAD = range(4)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and its segments."""

    pixels: UInt8[np.ndarray, "h w 3"]
    ids: UInt8[np.ndarray, "h w"]
    """Segment ids 1, 2, …; 0 where too little of a stuff label shows to be a segment."""
    label_ids: tuple[int, ...]
    """The labels of segments 1, 2, …"""


def draw_scene(index: int, *, seed: int, size: tuple[int, int] = (256, 320)) -> Scene:
    """Draws scene number `index` of a seed, of `size` (height, width)."""
    random = Random(f"scene {seed} {index}")
    light = choose_light(random)
    camera = choose_camera(random, size=size)
    theme = choose_theme(random)
    water, road = random.choice(theme.waters), random.choice(theme.roads)
    soil = choose_soil(random, has_beach=water in ("sea", "coast"))
    season = choose_season(random, soil=soil)
    land = choose_land(random, water=water, road=road, camera=camera)
    canvas = np.empty((3, *size), np.float32)
    surface = np.full(size, _SKY, np.uint8)
    paint_sky(random, canvas, camera=camera, light=light)
    hills = paint_hills(random, canvas, camera=camera, light=light)
    surface[: camera.first_row][hills] = _GROUND
    ground = paint_ground(random, soil=soil, land=land, camera=camera, light=light)
    canvas[:, camera.first_row :] = ground.colours
    surface[camera.first_row :] = np.where(
        ground.is_road, _ROAD, np.where(ground.is_water, _WATER, _GROUND)
    )
    placements = choose_placements(random, theme=theme, land=land, ground=ground, camera=camera)
    things = [
        Standing.at(
            placement,
            _sprite(random, placement, camera=camera, light=light, season=season, soil=soil),
            camera=camera,
            light=light,
        )
        for placement in placements
    ]
    things = _seen_well(things, size=size)
    paint_reflections(canvas, things, ground=ground, camera=camera)
    paint_shadows(canvas, things, ground=ground, camera=camera, light=light)
    for thing in things:
        paint_thing(canvas, thing)
    ids, label_ids = _segments(surface, things)
    pixels = photograph(random, canvas, is_dark=light.is_night)
    return Scene(pixels=pixels, ids=ids, label_ids=label_ids)


def smallest_area(size: tuple[int, int]) -> int:
    """Returns the least number of pixels of a segment."""
    return size[0] * size[1] // 1024


def _sprite(
    random: Random, placement: Placement, *, camera: Camera, light: Light, season: str, soil: str
) -> Sprite:
    scale = camera.scale(placement.z)
    match placement.label:
        case "house":
            return draw_house(random, scale=scale, light=light)
        case "tree":
            return draw_tree(
                random, scale=scale, light=light, season=season, is_beach=soil == "sand"
            )
        case "boat":
            return draw_boat(random, scale=scale, light=light)
        case "car":
            return draw_car(random, scale=scale, light=light, from_side=placement.is_across)
        case "person":
            return draw_person(random, scale=scale, light=light)
        case "ball":
            return draw_ball(random, scale=scale, light=light)


def _seen_well(things: list[Standing], *, size: tuple[int, int]) -> list[Standing]:
    """Returns the things that are visible enough; removing the others hides none of them."""
    covered = np.zeros(size, bool)
    kept = []
    for thing in reversed(things):
        window, part = thing.windows(size)
        mask = thing.mask(part)
        area = np.count_nonzero(mask & ~covered[window])
        own = np.count_nonzero(thing.sprite.alpha > 0.5)
        if area >= max(smallest_area(size), 0.12 * own):
            covered[window] |= mask
            kept.append(thing)
    return kept[::-1]


def _segments(
    surface: UInt8[np.ndarray, "h w"], things: list[Standing]
) -> tuple[UInt8[np.ndarray, "h w"], tuple[int, ...]]:
    """Returns the map of ids and the label of each, stuff first."""
    painted = surface.copy()
    for number, thing in enumerate(things, start=_ROAD + 1):
        window, part = thing.windows(surface.shape)
        painted[window][thing.mask(part)] = number
    counts = np.bincount(painted.ravel(), minlength=_ROAD + 1 + len(things))
    least = smallest_area((surface.shape[0], surface.shape[1]))
    stuff = [label for label in range(_ROAD + 1) if counts[label] >= least]
    id_of = np.zeros(len(counts), np.uint8)
    id_of[stuff] = np.arange(1, len(stuff) + 1)
    id_of[_ROAD + 1 :] = np.arange(len(things)) + len(stuff) + 1
    names = Counter(thing.placement.label for thing in things)
    assert not things or min(counts[_ROAD + 1 :]) >= least, names
    labels = [*stuff, *(LABELS.index(thing.placement.label) for thing in things)]
    return id_of[painted], tuple(labels)
