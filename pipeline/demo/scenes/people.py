"""Draws people: adults and children who stand, walk and wave."""

from random import Random

from pipeline.demo.scenes.drawing import Drawing, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_SKINS: tuple[Colour, ...] = (
    (244, 208, 180), (226, 178, 140), (190, 136, 98), (142, 94, 66), (98, 64, 48),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = (
    (40, 30, 26), (86, 56, 36), (180, 140, 80), (120, 116, 112), (150, 72, 40),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (196, 50, 50), (50, 90, 170), (236, 232, 222), (60, 60, 70), (230, 180, 60), (80, 140, 90),
    (150, 80, 140), (226, 130, 90), (110, 180, 190), (120, 96, 72),
)  # fmt: skip


def draw_person(random: Random, *, scale: float, light: Light) -> Sprite:
    is_child = random.random() < 0.25
    tall = random.uniform(1.05, 1.35) if is_child else random.uniform(1.58, 1.92)
    head = tall * (0.085 if is_child else 0.07)
    broad = tall * random.uniform(0.11, 0.15)
    drawing = Drawing(left=-0.48 * tall, right=0.48 * tall, top=tall * 1.22, scale=scale)
    skin = varied(random, random.choice(_SKINS), spread=8)
    top, below = (varied(random, random.choice(_CLOTHES), spread=16) for _ in range(2))
    hip, shoulder = 0.48 * tall, 0.81 * tall
    has_dress = random.random() < 0.25
    stride = random.choice((0.0, 0.0, 0.03, 0.07, 0.12)) * tall
    thick = 0.085 * tall
    bare = has_dress or random.random() < 0.2
    for side, shade in ((-1, 0.8), (1, 1.0)):
        foot = side * (stride + 0.045 * tall)
        leg = skin if bare else below
        points = [(side * 0.05 * tall, hip), (foot * 0.6, hip * 0.52), (foot, 0.04 * tall)]
        drawing.line(points, scaled(leg, shade), width=thick)
        drawing.ellipse(
            (foot + 0.02 * tall, 0.028 * tall), (0.055 * tall, 0.028 * tall), (50, 42, 40)
        )
    pose = random.choice(("down", "down", "down", "swing", "swing", "wave", "out"))
    _arms(
        random,
        drawing,
        pose=pose,
        tall=tall,
        shoulder=shoulder,
        sleeve=scaled(top, 0.86),
        skin=skin,
    )
    if has_dress:
        hem = random.uniform(0.24, 0.34) * tall
        dress = [(-broad * 0.9, shoulder), (broad * 0.9, shoulder), (broad * 0.7, hip * 1.2)]
        dress += [(broad * 1.5, hem), (-broad * 1.5, hem), (-broad * 0.7, hip * 1.2)]
        drawing.polygon(dress, top)
    else:
        torso = [(-broad, shoulder), (broad, shoulder), (broad * 0.82, hip), (-broad * 0.82, hip)]
        drawing.polygon(torso, top)
        if bare:
            drawing.rectangle(-broad * 0.85, hip * 0.72, broad * 0.85, hip * 1.02, below)
    lit = sorted((light.side * broad * 0.35, light.side * broad * 0.85))
    drawing.rectangle(lit[0], hip * 1.1, lit[1], shoulder * 0.98, scaled(top, 1.12))
    drawing.ellipse((0, shoulder), (broad, 0.035 * tall), top)
    _head(random, drawing, tall=tall, head=head, skin=skin)
    return drawing.sprite(random, texture=0.03)


def _arms(
    random: Random,
    drawing: Drawing,
    *,
    pose: str,
    tall: float,
    shoulder: float,
    sleeve: Colour,
    skin: Colour,
) -> None:
    joint = shoulder - 0.02 * tall
    reach = {
        "down": ((0.17, 0.62), (0.16, 0.47)), "swing": ((0.18, 0.63), (0.23, 0.51)),
        "wave": ((0.22, 0.86), (0.23, 1.04)), "out": ((0.24, 0.72), (0.36, 0.66)),
    }  # fmt: skip
    for side in (-1, 1):
        (ex, ey), (hx, hy) = reach[pose if side == 1 or pose == "out" else "down"]
        elbow = side * ex * tall, ey * tall
        hand = side * hx * tall, hy * tall
        drawing.line([(side * 0.12 * tall, joint), elbow], sleeve, width=0.065 * tall)
        drawing.line([elbow, hand], sleeve if pose == "down" else skin, width=0.05 * tall)
        drawing.ellipse(hand, (0.03 * tall, 0.03 * tall), skin)


def _head(random: Random, drawing: Drawing, *, tall: float, head: float, skin: Colour) -> None:
    middle = tall - head * 1.1
    hair = varied(random, random.choice(_HAIR), spread=10)
    style = random.choice(("short", "short", "long", "hat", "cap"))
    drawing.rectangle(-0.4 * head, 0.8 * tall, 0.4 * head, middle, scaled(skin, 0.88))
    if style == "long":
        drawing.ellipse((0, middle - head * 0.5), (head * 1.1, head * 1.5), hair)
    drawing.ellipse((0, middle + 0.2 * head), (head * 0.98, head * 1.05), hair)
    drawing.ellipse((0, middle - 0.12 * head), (head * 0.84, head * 0.98), skin)
    colour = random.choice(_CLOTHES)
    if style == "hat":
        drawing.ellipse((0, middle + 0.5 * head), (head * 1.9, head * 0.3), scaled(colour, 0.8))
        drawing.ellipse((0, middle + 0.8 * head), (head * 0.95, head * 0.6), colour)
    elif style == "cap":
        drawing.pie((0, middle + 0.3 * head), head, start=180, stop=360, c=colour)
