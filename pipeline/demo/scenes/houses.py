"""Draws houses: cottages, blocks, barns and towers, with front and one side."""

from random import Random

from pipeline.demo.scenes.drawing import Drawing, Point, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_WALLS: tuple[Colour, ...] = (
    (236, 226, 206), (214, 190, 150), (196, 120, 92), (170, 84, 70), (222, 222, 222),
    (232, 204, 128), (168, 188, 200), (200, 214, 180), (150, 112, 84), (226, 176, 160),
)  # fmt: skip
_ROOFS: tuple[Colour, ...] = (
    (150, 66, 48), (112, 58, 48), (88, 90, 100), (68, 70, 76), (176, 96, 62), (92, 104, 92),
)  # fmt: skip
_DOORS: tuple[Colour, ...] = ((96, 62, 42), (60, 88, 72), (140, 40, 40), (50, 66, 110))
_GLASS: Colour = (70, 88, 108)
_LAMPLIGHT: Colour = (255, 214, 130)


def draw_house(random: Random, *, scale: float, light: Light) -> Sprite:
    """Draws a house of one of four kinds; its windows are lit at night."""
    build = random.choices(("gable", "eaves", "block", "tower"), weights=(5, 6, 2, 1))[0]
    if build == "block":
        width, storeys, roof = random.uniform(8, 13), random.randint(2, 4), 0.5
    elif build == "tower":
        width, storeys, roof = random.uniform(3, 4.5), random.randint(2, 4), random.uniform(2.5, 4)
    else:
        width, storeys, roof = random.uniform(5.5, 11), random.choice((1, 1, 2)), 0.0
        roof = random.uniform(0.28, 0.45) * width
    wall = 2.7 * storeys + 0.4
    depth = random.uniform(1.2, 3.2)
    side = random.choice((-1, 1))
    half = width / 2
    drawing = Drawing(
        left=-half - depth - 0.5, right=half + depth + 0.5, top=wall + roof + 1.6, scale=scale
    )
    colour = varied(random, random.choice(_WALLS), spread=14)
    tiles = varied(random, random.choice(_ROOFS), spread=12)
    front = light.shaded(colour, side=-side) if random.random() < 0.5 else colour
    flank = light.shaded(colour, side=side)
    lift = 0.05 * depth
    x0, x1 = side * half, side * (half + depth)
    drawing.polygon([(x0, 0), (x1, lift), (x1, wall - lift), (x0, wall)], flank)
    drawing.rectangle(-half, 0, half, wall, front)
    drawing.rectangle(-half, 0, half, 0.35, scaled(front, 0.72))
    if build in ("gable", "eaves") and random.random() < 0.7:
        at = random.uniform(-0.3, 0.3) * width
        drawing.rectangle(at, wall, at + 0.7, wall + roof + 1.0, scaled(colour, 0.62))
    if build == "gable":
        drawing.polygon([(-half, wall), (half, wall), (0, wall + roof)], front)
        slope = [(x0 + side * 0.3, wall - 0.15), (0, wall + roof + 0.15)]
        slope += [(side * depth, wall + roof - lift), (x1 + side * 0.2, wall - lift - 0.15)]
        drawing.polygon(slope, light.shaded(tiles, side=side))
        verge: list[Point] = [(-half - 0.3, wall - 0.2), (0, wall + roof), (half + 0.3, wall - 0.2)]
        drawing.line(verge, scaled(tiles, 0.8), width=0.32)
    elif build == "eaves":
        ridge = x0 + side * depth / 2, wall + roof - lift
        drawing.polygon([(x0, wall), (x1, wall - lift), ridge], scaled(flank, 0.96))
        far = -side * (half - random.choice((-0.3, 0.25 * width))), wall + roof
        edge = [(-side * (half + 0.35), wall - 0.2), (x0 + side * 0.35, wall - 0.2)]
        drawing.polygon([*edge, ridge, far], tiles)
        rows = int(roof / 0.5)
        for row in range(1, rows):
            y = wall - 0.2 + roof * row / rows
            share = row / rows
            ends = [
                (a[0] + (b[0] - a[0]) * share, y) for a, b in zip(edge, (far, ridge), strict=True)
            ]
            drawing.line(ends, scaled(tiles, 0.88), width=0.08)
    elif build == "block":
        drawing.rectangle(-half - 0.15, wall, half + 0.15, wall + roof, scaled(front, 0.8))
    else:
        top = side * depth / 2, wall + roof
        drawing.polygon([(-side * (half + 0.3), wall), (x0 + side * 0.2, wall), top], tiles)
        drawing.polygon([(x0 + side * 0.2, wall), (x1, wall - lift), top], scaled(tiles, 0.75))
    _openings(random, drawing, width=width, storeys=storeys, light=light)
    return drawing.sprite(random, texture=0.045)


def _openings(
    random: Random, drawing: Drawing, *, width: float, storeys: int, light: Light
) -> None:
    columns = max(1, int(width / random.uniform(1.9, 2.8)))
    door = random.randrange(columns)
    wide, high = random.uniform(0.4, 0.6), random.uniform(1.0, 1.5)
    frame: Colour = random.choice(((244, 244, 240), (90, 70, 56), (210, 206, 196)))
    glass = varied(random, _GLASS, spread=22)
    shutters = varied(random, random.choice(_DOORS), spread=20) if random.random() < 0.3 else None
    for storey in range(storeys):
        for column in range(columns):
            x = width * ((column + 0.5) / columns - 0.5)
            y = 2.7 * storey
            if storey == 0 and column == door:
                colour = random.choice(_DOORS)
                drawing.rectangle(x - 0.62, 0.05, x + 0.62, 2.3, frame)
                drawing.rectangle(x - 0.5, 0.05, x + 0.5, 2.15, colour)
                continue
            if shutters is not None:
                drawing.rectangle(x - 2 * wide, y + 0.9, x + 2 * wide, y + 0.9 + high, shutters)
            drawing.rectangle(x - wide - 0.1, y + 0.8, x + wide + 0.1, y + 1.0 + high, frame)
            if light.is_night and random.random() < 0.6:
                drawing.lamp(x - wide, y + 0.9, x + wide, y + 0.9 + high, _LAMPLIGHT)
            else:
                drawing.rectangle(x - wide, y + 0.9, x + wide, y + 0.9 + high, glass)
            drawing.line([(x, y + 0.9), (x, y + 0.9 + high)], frame, width=0.08)
