"""Draws trees: broad crowns, firs, poplars, birches and palms, in seasonal colours."""

import math
from random import Random

from pipeline.demo.scenes.drawing import Drawing, Sprite
from pipeline.demo.scenes.light import Colour, Light, scaled, varied

_LEAVES: dict[str, tuple[Colour, ...]] = {
    "summer": ((66, 112, 48), (84, 128, 56), (52, 96, 54), (104, 136, 60)),
    "autumn": ((196, 120, 44), (178, 76, 42), (208, 164, 60), (128, 120, 56)),
    "spring": ((132, 168, 84), (232, 172, 190), (240, 220, 226), (110, 156, 78)),
    "winter": ((150, 164, 168), (206, 216, 226), (112, 126, 118)),
}
_FIRS: tuple[Colour, ...] = ((40, 78, 56), (52, 88, 66), (34, 66, 60), (74, 98, 58))
_BARK: tuple[Colour, ...] = ((92, 70, 52), (76, 60, 50), (112, 92, 74))


def choose_season(random: Random, *, soil: str) -> str:
    if soil == "snow":
        return "winter"
    return random.choices(("summer", "autumn", "spring"), weights=(6, 2, 1))[0]


def draw_tree(random: Random, *, scale: float, light: Light, season: str, is_beach: bool) -> Sprite:
    kinds = ("crown", "fir", "poplar", "palm")
    weights = {"winter": (2, 6, 1, 0), "spring": (7, 2, 2, 0)}.get(season, (7, 4, 2, 0))
    if is_beach:
        weights = (2, 1, 0, 7)
    kind = random.choices(kinds, weights=weights)[0]
    if kind == "fir":
        return _fir(random, scale=scale, light=light, has_snow=season == "winter")
    if kind == "palm":
        return _palm(random, scale=scale, light=light)
    leaves = varied(random, random.choice(_LEAVES[season]), spread=18)
    return _crown(random, scale=scale, light=light, leaves=leaves, is_slim=kind == "poplar")


def _crown(random: Random, *, scale: float, light: Light, leaves: Colour, is_slim: bool) -> Sprite:
    height = random.uniform(6, 10) if is_slim else random.uniform(3.5, 8)
    across = height * (random.uniform(0.11, 0.17) if is_slim else random.uniform(0.3, 0.45))
    trunk = height * (0.12 if is_slim else random.uniform(0.2, 0.36))
    up = (height - trunk) / 2
    drawing = Drawing(left=-across - 0.6, right=across + 0.6, top=height + 0.6, scale=scale)
    bark = varied(random, random.choice(_BARK), spread=12)
    if not is_slim and random.random() < 0.2:
        bark = (222, 220, 212)
    thick = height * random.uniform(0.022, 0.04)
    trunk_top = trunk + up
    drawing.polygon(
        [(-thick * 1.4, 0), (thick * 1.4, 0), (thick * 0.7, trunk_top), (-thick * 0.7, trunk_top)],
        bark,
    )
    middle = trunk + up
    # Layers go from the dark leaves behind to the lit ones, each smaller and nearer to the sun.
    # A near tree shows smaller leaves, and more of them.
    finer = min(2.5, max(1.0, across * scale / 30))
    layers = ((0.62, 26, 0.0), (0.86, 26, 0.08), (1.06, 22, 0.18), (1.26, 14, 0.3))
    for brightness, blobs, shift in layers:
        spread = 1 - 1.5 * shift
        for _ in range(round(blobs * finer)):
            angle, far = random.uniform(0, math.tau), math.sqrt(random.random()) * 0.86 * spread
            x = across * (math.cos(angle) * far + light.side * shift * 0.8)
            y = middle + up * (math.sin(angle) * far + shift * 0.7)
            size = random.uniform(0.13, 0.27) * across * (1.8 if is_slim else 1) / finer**0.6
            shade = scaled(leaves, brightness * random.uniform(0.92, 1.08))
            drawing.ellipse((x, y), (size, size * random.uniform(0.7, 1.0)), shade)
    return drawing.sprite(random, texture=0.1)


def _fir(random: Random, *, scale: float, light: Light, has_snow: bool) -> Sprite:
    height = random.uniform(4, 10)
    across = height * random.uniform(0.17, 0.28)
    drawing = Drawing(left=-across - 0.3, right=across + 0.3, top=height + 0.3, scale=scale)
    needles = varied(random, random.choice(_FIRS), spread=12)
    trunk = height * 0.09
    drawing.rectangle(-0.03 * height, 0, 0.03 * height, trunk * 2, random.choice(_BARK))
    layers = random.randint(5, 8)
    snowy = has_snow and random.random() < 0.8
    for layer in range(layers):
        share = layer / layers
        low, high = trunk + (height - trunk) * share * 0.94, height
        top = min(high, low + (height - trunk) * 2.1 / layers)
        half = across * (1 - share) * random.uniform(0.9, 1.1)
        jags = [(-half, low), (-0.6 * half, low - 0.1 * half), (-0.3 * half, low + 0.04 * half)]
        jags += [(0.1 * half, low - 0.1 * half), (0.5 * half, low + 0.03 * half), (half, low)]
        colour = scaled(needles, 0.8 + 0.3 * share)
        drawing.polygon([*jags, (0, top)], scaled(colour, 0.82))
        lit = [(light.side * x, y) for x, y in ((0.0, low + 0.02), (half, low), (0.0, top))]
        drawing.polygon(lit, scaled(colour, 1.14))
        if snowy:
            cap = low + (top - low) * 0.45
            drawing.polygon([(-half * 0.55, cap), (half * 0.55, cap), (0, top)], (232, 238, 246))
    return drawing.sprite(random, texture=0.1)


def _palm(random: Random, *, scale: float, light: Light) -> Sprite:
    height, lean = random.uniform(4.5, 8), random.uniform(-1.3, 1.3)
    reach = height * random.uniform(0.32, 0.42)
    drawing = Drawing(
        left=min(0.0, lean) - reach, right=max(0.0, lean) + reach, top=height + reach, scale=scale
    )
    bark = varied(random, (140, 112, 80), spread=14)
    steps = [(lean * (s / 6) ** 2, height * s / 6) for s in range(7)]
    drawing.line(steps, bark, width=0.36)
    green = varied(random, (76, 124, 58), spread=16)
    for frond in range(11):
        angle = math.pi * (frond / 10 * 1.5 - 0.25) + random.uniform(-0.1, 0.1)
        x, y = math.cos(angle), math.sin(angle)
        tip = lean + reach * x, height + reach * (0.7 * y - 0.3)
        bend = lean + reach * 0.55 * x, height + reach * (0.62 * y + 0.16)
        low = lean + reach * 0.55 * x, height + reach * (0.62 * y - 0.08)
        shade = scaled(green, 0.8 + 0.35 * (x * light.side + 1) / 2)
        drawing.polygon([(lean, height), bend, tip, low], shade)
    for nut in (-0.2, 0.15):
        drawing.ellipse((lean + nut, height - 0.15), (0.18, 0.2), (104, 72, 44))
    return drawing.sprite(random, texture=0.08)
