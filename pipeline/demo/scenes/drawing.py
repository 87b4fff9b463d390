"""Draws one thing, in metres, to a sprite in pixels.

x goes to the right of the thing's middle, y up from its foot. Shapes cover earlier ones. They are
drawn at a larger scale and reduced, for smooth edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw

from pipeline.demo.scenes.light import Colour
from pipeline.demo.scenes.noise import cut

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """A picture of one thing, and the share of each pixel that it covers."""

    colours: Float32[np.ndarray, "3 h w"]
    """Colours, multiplied by `alpha`."""
    alpha: Float32[np.ndarray, "h w"]
    lit: Float32[np.ndarray, "h w"] | None
    """Share of each pixel that is a lamp, independent of the light."""
    foot: tuple[int, int]
    """The (row, column) of the point at which the thing stands."""


class Drawing:
    """Draws shapes in metres."""

    def __init__(self, *, left: float, right: float, top: float, scale: float) -> None:
        """Sets the extent of the thing; shapes are cut off outside."""
        self._finer = 2 if (right - left) * scale > 40 else 4
        self._pixels = scale * self._finer
        self._foot = int(top * scale) + 2, int(-left * scale) + 2
        size = self._foot[1] + int(right * scale) + 3, self._foot[0] + 2
        size = size[0] * self._finer, size[1] * self._finer
        # Four plain bands: of RGBA, Pillow would multiply and divide colours by alpha.
        self._image = Image.new("CMYK", size)
        self._lit: Image.Image | None = None
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self._at(*point) for point in points], _ink(colour))

    def rectangle(self, left: float, bottom: float, right: float, top: float, c: Colour) -> None:
        self._draw.rectangle([*self._at(left, top), *self._at(right, bottom)], _ink(c))

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        self._draw.ellipse(self._box(centre, radii), _ink(colour))

    def pie(self, centre: Point, radius: float, *, start: float, stop: float, c: Colour) -> None:
        """Draws a sector between two angles, in degrees, clockwise from the right."""
        self._draw.pieslice(self._box(centre, (radius, radius)), start, stop, _ink(c))

    def line(self, points: Sequence[Point], colour: Colour, *, width: float) -> None:
        thick = max(1, round(width * self._pixels))
        self._draw.line(
            [self._at(*point) for point in points], _ink(colour), width=thick, joint="curve"
        )

    def lamp(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Draws a rectangle that is a lamp."""
        self.rectangle(left, bottom, right, top, colour)
        if self._lit is None:
            self._lit = Image.new("L", self._image.size)
        ImageDraw.Draw(self._lit).rectangle([*self._at(left, top), *self._at(right, bottom)], 255)

    def sprite(self, random: Random, *, texture: float) -> Sprite:
        """Returns the finished picture, with noise of strength `texture` on its colours."""
        small = np.asarray(self._image.reduce(self._finer))
        values = np.moveaxis(small, -1, 0).astype(np.float32, order="C")
        colours, alpha = values[:3], values[3] * np.float32(1 / 255)
        if texture:
            rough = cut(random, alpha.shape, roughness=1.0)
            colours *= 1 + texture * rough.clip(-2, 2)
        lit = None
        if self._lit is not None:
            lit = np.asarray(self._lit.reduce(self._finer)).astype(np.float32) / 255
        return Sprite(colours=colours, alpha=alpha, lit=lit, foot=self._foot)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        row, column = self._foot
        return column * self._finer + x * self._pixels, row * self._finer - y * self._pixels

    def _box(self, centre: Point, radii: Point) -> list[float]:
        (x, y), (across, up) = centre, radii
        return [*self._at(x - across, y + up), *self._at(x + across, y - up)]


def _ink(colour: Colour) -> tuple[int, int, int, int]:
    red, green, blue = (min(255, max(0, int(value))) for value in colour)
    return red, green, blue, 255
