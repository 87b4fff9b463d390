"""Draws cars, vans, lorries and buses, from the side or from an end."""

from random import Random

from pipeline.demo.scenes.drawing import Drawing, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_PAINTS: tuple[Colour, ...] = (
    (190, 40, 40), (44, 84, 150), (232, 232, 230), (60, 62, 66), (170, 174, 178), (226, 178, 50),
    (56, 112, 84), (224, 120, 50), (120, 170, 190), (116, 50, 74),
)  # fmt: skip
_GLASS: Colour = (74, 92, 110)
_TYRE: Colour = (34, 34, 36)
_HUB: Colour = (150, 152, 156)
_HEADLIGHT: Colour = (255, 246, 206)
_TAILLIGHT: Colour = (214, 34, 30)


def draw_car(random: Random, *, scale: float, light: Light, from_side: bool) -> Sprite:
    paint = varied(random, random.choice(_PAINTS), spread=14)
    if not from_side:
        return _end(random, scale=scale, light=light, paint=paint)
    kind = random.choices(("saloon", "hatch", "van", "lorry", "bus"), weights=(5, 5, 3, 2, 1))[0]
    length = {"saloon": 4.5, "hatch": 3.8, "van": 4.9, "lorry": 6.6, "bus": 9.0}[kind]
    high = {"saloon": 1.42, "hatch": 1.5, "van": 2.1, "lorry": 2.8, "bus": 2.9}[kind]
    length, high = length * random.uniform(0.93, 1.08), high * random.uniform(0.95, 1.06)
    ahead = random.choice((-1, 1))
    drawing = Drawing(left=-length / 2, right=length / 2, top=high, scale=scale)
    body = _Body(drawing, half=length / 2, high=high, ahead=ahead)
    {"saloon": _saloon, "hatch": _hatch, "van": _van, "lorry": _lorry, "bus": _bus}[kind](
        random, body, paint
    )
    body.shape([(-1, 0.2), (1, 0.2), (1, 0.26), (-1, 0.26)], scaled(paint, 0.6))
    radius = 0.33 if high < 2 else 0.4 if high < 2.5 else 0.48
    for at in (-0.62, 0.62):
        x = ahead * at * length / 2
        drawing.ellipse((x, radius), (radius * 1.16, radius * 1.12), scaled(paint, 0.4))
        drawing.ellipse((x, radius), (radius, radius), _TYRE)
        drawing.ellipse((x, radius), (radius * 0.52, radius * 0.52), _HUB)
    front, back = ahead * length / 2, -ahead * length / 2
    lamp = drawing.lamp if light.is_night else drawing.rectangle
    lamp(min(front, front - ahead * 0.2), 0.62, max(front, front - ahead * 0.2), 0.8, _HEADLIGHT)
    lamp(min(back, back + ahead * 0.16), 0.62, max(back, back + ahead * 0.16), 0.82, _TAILLIGHT)
    return drawing.sprite(random, texture=0.03)


class _Body:
    """Draws shapes in shares of half the length and of the height; the front is at 1."""

    def __init__(self, drawing: Drawing, *, half: float, high: float, ahead: int) -> None:
        self._drawing, self._half, self._high, self._ahead = drawing, half, high, ahead

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        across = self._half * self._ahead
        self._drawing.polygon([(x * across, y * self._high) for x, y in points], colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        self.shape([(left, bottom), (right, bottom), (right, top), (left, top)], colour)


def _saloon(random: Random, body: _Body, paint: Colour) -> None:
    body.shape([(-0.64, 0.6), (-0.42, 1), (0.22, 1), (0.5, 0.6)], scaled(paint, 0.92))
    body.shape([(-0.56, 0.62), (-0.39, 0.94), (-0.1, 0.94), (-0.1, 0.62)], _GLASS)
    body.shape([(-0.04, 0.62), (-0.04, 0.94), (0.2, 0.94), (0.42, 0.62)], _GLASS)
    hull = [(-1, 0.22), (-0.98, 0.58), (-0.66, 0.64), (0.5, 0.62), (0.93, 0.54), (1, 0.4)]
    body.shape([*hull, (1, 0.22)], paint)
    body.box(-0.96, 0.46, 0.97, 0.52, scaled(paint, 1.18))


def _hatch(random: Random, body: _Body, paint: Colour) -> None:
    body.shape([(-0.96, 0.56), (-0.8, 1), (0.2, 1), (0.55, 0.58)], scaled(paint, 0.92))
    body.shape([(-0.86, 0.62), (-0.75, 0.94), (-0.22, 0.94), (-0.22, 0.62)], _GLASS)
    body.shape([(-0.15, 0.62), (-0.15, 0.94), (0.18, 0.94), (0.46, 0.62)], _GLASS)
    hull = [(-1, 0.22), (-0.99, 0.6), (0.54, 0.6), (0.94, 0.52), (1, 0.36), (1, 0.22)]
    body.shape(hull, paint)
    body.box(-0.97, 0.46, 0.96, 0.52, scaled(paint, 1.18))


def _van(random: Random, body: _Body, paint: Colour) -> None:
    hull = [(-1, 0.18), (-1, 0.97), (-0.96, 1), (0.5, 1), (0.8, 0.58), (1, 0.5), (1, 0.18)]
    body.shape(hull, paint)
    body.shape([(0.28, 0.6), (0.28, 0.9), (0.48, 0.9), (0.7, 0.6)], _GLASS)
    if random.random() < 0.5:
        body.box(-0.9, 0.6, -0.36, 0.88, _GLASS)
        body.box(-0.28, 0.6, 0.2, 0.88, _GLASS)
    body.box(-1, 0.42, 0.98, 0.47, scaled(paint, 0.8))


def _lorry(random: Random, body: _Body, paint: Colour) -> None:
    load = varied(
        random, random.choice(((220, 220, 214), (90, 120, 150), (170, 130, 80))), spread=14
    )
    body.box(-1, 0.24, 0.5, 1, load)
    for at in (-0.7, -0.4, -0.1, 0.2):
        body.box(at, 0.26, at + 0.03, 0.98, scaled(load, 0.84))
    body.shape([(0.54, 0.17), (0.54, 0.84), (0.86, 0.84), (1, 0.5), (1, 0.17)], paint)
    body.shape([(0.64, 0.52), (0.64, 0.78), (0.84, 0.78), (0.95, 0.52)], _GLASS)
    body.box(-1, 0.17, 0.56, 0.25, (54, 54, 58))


def _bus(random: Random, body: _Body, paint: Colour) -> None:
    body.shape([(-1, 0.13), (-1, 0.98), (0.97, 1), (1, 0.6), (1, 0.13)], paint)
    for window in range(6):
        left = -0.94 + 0.31 * window
        body.box(left, 0.52, left + 0.26, 0.86, _GLASS)
    body.box(-1, 0.36, 1, 0.42, (240, 238, 230))


def _end(random: Random, *, scale: float, light: Light, paint: Colour) -> Sprite:
    """Draws a car from in front or from behind."""
    is_van = random.random() < 0.25
    half, high = random.uniform(0.86, 0.96), (2.1 if is_van else 1.48) * random.uniform(0.95, 1.05)
    drawing = Drawing(left=-half - 0.1, right=half + 0.1, top=high, scale=scale)
    waist = 0.58 * high
    for side in (-1, 1):
        x = side * half * 0.78
        drawing.rectangle(x - 0.13, 0, x + 0.13, 0.5, _TYRE)
    roof = half * (0.9 if is_van else 0.7)
    drawing.polygon(
        [(-half * 0.96, waist), (-roof, high), (roof, high), (half * 0.96, waist)],
        scaled(paint, 0.94),
    )
    glass = [(-half * 0.86, waist + 0.04), (-roof * 0.92, high - 0.1), (roof * 0.92, high - 0.1)]
    drawing.polygon([*glass, (half * 0.86, waist + 0.04)], _GLASS)
    drawing.rectangle(-half, 0.24, half, waist, paint)
    drawing.rectangle(-half, 0.24, half, 0.4, scaled(paint, 0.55))
    is_front = random.random() < 0.5
    lamp = drawing.lamp if light.is_night else drawing.rectangle
    colour = _HEADLIGHT if is_front else _TAILLIGHT
    for side in (-1, 1):
        edge, inner = side * half * 0.94, side * half * 0.62
        lamp(min(edge, inner), 0.58, max(edge, inner), 0.76, colour)
    if is_front:
        drawing.rectangle(-half * 0.5, 0.46, half * 0.5, 0.66, (50, 50, 54))
    drawing.rectangle(-0.26, 0.42, 0.26, 0.54, (236, 236, 226))
    return drawing.sprite(random, texture=0.03)
