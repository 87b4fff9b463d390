"""Draws boats: with sails, with oars, with a cabin, with a funnel."""

from random import Random

from pipeline.demo.scenes.drawing import Drawing, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_HULLS: tuple[Colour, ...] = (
    (236, 234, 228), (150, 46, 44), (44, 78, 120), (122, 84, 54), (52, 104, 92), (222, 176, 60),
    (60, 62, 70),
)  # fmt: skip
_SAILS: tuple[Colour, ...] = (
    (244, 240, 228), (244, 240, 228), (206, 84, 66), (226, 170, 80), (120, 160, 190),
)  # fmt: skip


def draw_boat(random: Random, *, scale: float, light: Light) -> Sprite:
    kind = random.choices(("sail", "row", "cabin", "steamer"), weights=(5, 2, 3, 2))[0]
    ahead = random.choice((-1, 1))
    length = {"sail": 6.5, "row": 3.6, "cabin": 7.0, "steamer": 13.0}[kind]
    length *= random.uniform(0.85, 1.3)
    hull = length * {"sail": 0.13, "row": 0.17, "cabin": 0.15, "steamer": 0.13}[kind]
    top = length * (1.35 if kind == "sail" else 0.7)
    half = length / 2
    drawing = Drawing(left=-half - 0.3, right=half + 0.3, top=top, scale=scale)
    colour = varied(random, random.choice(_HULLS), spread=14)
    if kind == "sail":
        _sails(random, drawing, half=half, hull=hull, top=top * 0.97, ahead=ahead, light=light)
    elif kind == "row":
        _rower(random, drawing, hull=hull, ahead=ahead)
    else:
        _cabin(random, drawing, half=half, hull=hull, ahead=ahead, light=light, kind=kind)
    keel = 0.0
    outline = [(-0.96 * half, hull), (0.98 * half, hull * 1.25), (0.8 * half, keel)]
    outline += [(-0.86 * half, keel)]
    outline = [(ahead * x, y) for x, y in outline]
    drawing.polygon(outline, scaled(colour, 1.0 if light.side == ahead else 0.86))
    stripe = [(-0.94 * half, hull * 0.98), (0.97 * half, hull * 1.23)]
    stripe += [(0.95 * half, hull * 0.95), (-0.93 * half, hull * 0.72)]
    trim: Colour = random.choice(((240, 240, 236), (60, 50, 46), (190, 60, 50)))
    drawing.polygon([(ahead * x, y) for x, y in stripe], trim)
    low = [(0.82 * half, hull * 0.2), (-0.88 * half, hull * 0.2)]
    low += [(-0.86 * half, keel), (0.79 * half, keel)]
    drawing.polygon([(ahead * x, y) for x, y in low], scaled(colour, 0.6))
    return drawing.sprite(random, texture=0.04)


def _sails(
    random: Random,
    drawing: Drawing,
    *,
    half: float,
    hull: float,
    top: float,
    ahead: int,
    light: Light,
) -> None:
    mast = 0.08 * half
    sail = varied(random, random.choice(_SAILS), spread=10)
    drawing.line([(ahead * mast, hull), (ahead * mast, top)], (120, 96, 70), width=0.16)
    main = [(mast - 0.06, top * 0.97), (mast - 0.06, hull + 0.5), (-0.85 * half, hull + 0.6)]
    main.insert(0, (-0.3 * half, top * 0.6))
    drawing.polygon([(ahead * x, y) for x, y in main], light.shaded(sail, side=-ahead))
    jib = [(mast + 0.1, top * 0.85), (mast + 0.12, hull + 0.45), (0.9 * half, hull + 0.35)]
    drawing.polygon([(ahead * x, y) for x, y in jib], light.shaded(sail, side=ahead))
    if random.random() < 0.4:
        flag = [(mast, top), (mast - 0.7, top - 0.18), (mast, top - 0.36)]
        drawing.polygon([(ahead * x, y) for x, y in flag], (200, 50, 50))


def _rower(random: Random, drawing: Drawing, *, hull: float, ahead: int) -> None:
    """Draws oars and a box, and no rower, whose label would be person."""
    for x in (-0.5, 0.5):
        drawing.line([(x * 0.4, hull), (x * 2.6, 0.06)], (168, 134, 92), width=0.1)
    wide = random.uniform(0.3, 0.6)
    drawing.rectangle(-ahead * 0.9 - wide, hull, -ahead * 0.9 + wide, hull + 0.45, (150, 110, 70))


def _cabin(
    random: Random,
    drawing: Drawing,
    *,
    half: float,
    hull: float,
    ahead: int,
    light: Light,
    kind: str,
) -> None:
    white = varied(random, random.choice(((240, 240, 236), (206, 190, 160))), spread=8)
    decks = 2 if kind == "steamer" else 1
    floor = hull
    for deck in range(decks):
        back, front = (-0.62 + 0.12 * deck) * half, (0.42 - 0.18 * deck) * half
        high = 0.16 * half if kind == "steamer" else 0.3 * half
        walls = [(back, floor), (front, floor), (front - 0.12 * half, floor + high)]
        walls += [(back, floor + high)]
        drawing.polygon([(ahead * x, y) for x, y in walls], light.shaded(white, side=ahead))
        windows = 5 if kind == "steamer" else 3
        for window in range(windows):
            x = ahead * (back + (front - back) * (window + 0.5) / (windows + 0.6))
            wide = 0.045 * half if kind == "steamer" else 0.09 * half
            box = (x - wide, floor + 0.35 * high, x + wide, floor + 0.75 * high)
            if light.is_night and random.random() < 0.7:
                drawing.lamp(*box, (255, 220, 140))
            else:
                drawing.rectangle(*box, (64, 84, 104))
        floor += high
    if kind == "steamer":
        funnel = varied(random, (190, 60, 46), spread=20)
        x = ahead * -0.15 * half
        drawing.rectangle(x - 0.08 * half, floor, x + 0.08 * half, floor + 0.34 * half, funnel)
        band = floor + 0.24 * half
        drawing.rectangle(x - 0.08 * half, band, x + 0.08 * half, band + 0.1 * half, (40, 40, 44))
    else:
        x = ahead * -0.2 * half
        drawing.line([(x, floor), (x, floor + 0.5 * half)], (90, 90, 94), width=0.1)
