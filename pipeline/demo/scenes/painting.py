"""Painting: sprites onto the picture, with the light, the haze, their shadows and reflections.

The canvas, channels first, is the one thing here that is changed in place.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image, ImageFilter

from pipeline.demo.scenes.camera import Camera
from pipeline.demo.scenes.drawing import Sprite
from pipeline.demo.scenes.ground import Ground
from pipeline.demo.scenes.light import Light, rgb
from pipeline.demo.scenes.placing import Placement

Canvas = Float32[np.ndarray, "3 h w"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A thing at its position in the picture."""

    placement: Placement
    sprite: Sprite
    top: int
    left: int
    """The position of the sprite's first pixel, which may be outside."""

    seen: Float32[np.ndarray, "3 h w"]
    """The sprite's colours in the scene's light and haze, times its alpha."""

    @classmethod
    def at(
        cls, placement: Placement, sprite: Sprite, *, camera: Camera, light: Light
    ) -> "Standing":
        row, column = camera.point(placement.x, placement.z)
        return cls(
            placement=placement,
            sprite=sprite,
            top=row - sprite.foot[0],
            left=column - sprite.foot[1],
            seen=_seen(sprite, z=placement.z, light=light),
        )

    def windows(self, size: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Returns the covered part of the picture, and the same part of the sprite."""
        of_picture, of_sprite = [], []
        for start, length, extent in zip(
            (self.top, self.left), self.sprite.alpha.shape, size, strict=False
        ):
            first, last = max(start, 0), max(min(start + length, extent), max(start, 0))
            of_picture.append(slice(first, last))
            of_sprite.append(slice(first - start, last - start))
        return (of_picture[0], of_picture[1]), (of_sprite[0], of_sprite[1])

    def mask(self, part: tuple[slice, slice]) -> Bool[np.ndarray, "h w"]:
        """Returns the thing's pixels: those of which it covers more than half."""
        return self.sprite.alpha[part] > 0.5


def paint_thing(canvas: Canvas, thing: Standing) -> None:
    (rows, columns), part = thing.windows(canvas.shape[1:])
    piece = canvas[:, rows, columns]
    piece *= 1 - thing.sprite.alpha[part]
    piece += thing.seen[:, *part]


def paint_shadows(
    canvas: Canvas, things: list[Standing], *, ground: Ground, camera: Camera, light: Light
) -> None:
    """Darkens the ground in the shadows of things; water shows little of them."""
    depth = np.zeros((camera.height - camera.first_row, camera.width), np.float32)
    for thing in things:
        z = thing.placement.z
        row, column = camera.point(thing.placement.x, z)
        # Pixels of shadow for one pixel of height.
        across = light.shadow_x
        down = -light.shadow_z * camera.eye / z
        down = max(abs(down), 0.1) * (1 if down >= 0 else -1)
        height, width = thing.sprite.alpha.shape
        reach = round(abs(across) * height) + width
        rows = max(2, round(abs(down) * height) + 2)
        left, top = column - reach, row - (rows if down < 0 else 2)
        foot_row, foot_column = thing.sprite.foot
        # Maps a pixel of the shadow back to the pixel of the sprite.
        back = row - top
        matrix = (
            1, -across / down, across / down * back + foot_column - (column - left),
            0, -1 / down, back / down + foot_row,
        )  # fmt: skip
        alpha = Image.fromarray((thing.sprite.alpha * 255).astype(np.uint8))
        thrown = alpha.transform((2 * reach, rows + 2), Image.Transform.AFFINE, matrix)
        _darken(depth, np.asarray(thrown), top=top - camera.first_row, left=left)
    soft = Image.fromarray((depth * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    share = np.asarray(soft).astype(np.float32) * np.float32(light.shadow_depth / 255)
    share *= np.where(ground.is_water, np.float32(0.35), np.float32(1))
    canvas[:, camera.first_row :] *= 1 - share


def paint_reflections(
    canvas: Canvas, things: list[Standing], *, ground: Ground, camera: Camera
) -> None:
    """Paints reflections of things in the water before them, far ones first."""
    if not ground.is_water.any():
        return
    below = canvas[:, camera.first_row :]
    for thing in things:
        row, _ = camera.point(thing.placement.x, thing.placement.z)
        start = row - camera.first_row
        window, part = thing.windows((camera.height, camera.width))
        height = min(thing.sprite.foot[0], below.shape[1] - start)
        if start < 0 or height < 2 or window[1].start >= window[1].stop:
            continue
        columns = part[1]
        foot = thing.sprite.foot[0]
        rows = slice(foot - height, foot)
        alpha = thing.sprite.alpha[rows, columns][::-1]
        seen = thing.seen[:, rows, columns][:, ::-1]
        fade = np.linspace(0.55, 0.15, height, dtype=np.float32)[:, None]
        fade = fade * ground.is_water[start : start + height, window[1]]
        piece = below[:, start : start + height, window[1]]
        piece += fade * (seen * np.float32(0.9) - alpha * piece)


def _seen(sprite: Sprite, *, z: float, light: Light) -> Float32[np.ndarray, "3 h w"]:
    haze = np.float32(1 - np.exp(-z / light.haze_metres))
    factors = rgb(light.tint)
    if sprite.lit is not None:
        factors = factors + sprite.lit * (1 - factors)
    colours = sprite.colours * (factors * (1 - haze))
    colours += sprite.alpha * (haze * rgb(light.horizon))
    return colours


def _darken(
    depth: Float32[np.ndarray, "rows w"], thrown: np.ndarray, *, top: int, left: int
) -> None:
    rows, columns = depth.shape
    first_row, last_row = max(top, 0), min(top + thrown.shape[0], rows)
    first, last = max(left, 0), min(left + thrown.shape[1], columns)
    if first_row >= last_row or first >= last:
        return
    piece = depth[first_row:last_row, first:last]
    part = thrown[first_row - top : last_row - top, first - left : last - left]
    np.maximum(piece, part * np.float32(1 / 255), out=piece)
