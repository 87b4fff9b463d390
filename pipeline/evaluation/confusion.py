"""Draws the confusion matrix of an evaluation as a picture."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, ImageDraw, ImageFont

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK, _PALE, _GRID = (40, 40, 40), (235, 235, 235), (215, 215, 215)
_LOW, _HIGH = np.array([255, 255, 255]), np.array([8, 48, 107])
_TITLE = "true label (row) by predicted label (column), %"
_MARGIN, _GAP, _HEAD = 16, 8, 52
_LONGEST_NAME = 28
_IOU_WIDTH = 70


def confusion_picture(
    confusion: Integer[np.ndarray, "labels labels_and_none"],
    *,
    names: Sequence[str],
    iou: Sequence[float],
) -> Image.Image:
    """Draws a row for each true label: the share of its pixels by predicted label, and its IoU."""
    size = max(6, min(44, 1400 // len(names)))
    font = ImageFont.load_default(size=max(6, min(14, size - 1)))
    names = [_short(name) for name in names]
    columns = [*names, "none"] if confusion[:, -1].any() else names
    cells = _cells(
        _shares(confusion[:, : len(columns)], totals=confusion.sum(1)), size=size, font=font
    )
    left = _MARGIN + max(int(font.getlength(name)) for name in names) + _GAP
    top = _HEAD + max(int(font.getlength(name)) for name in columns) + _GAP
    right = left + cells.width + (_IOU_WIDTH if size >= 12 else 0)
    title = ImageFont.load_default(size=16)
    width = max(right, _MARGIN + int(title.getlength(_TITLE))) + _MARGIN
    picture = Image.new("RGB", (width, top + cells.height + _MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 12), _TITLE, _INK, title)
    picture.paste(cells, (left, top))
    for column, name in enumerate(columns):
        _upright(picture, (left + column * size, top - _GAP), name, width=size, font=font)
    for row, name in enumerate(names):
        y = top + (row + 0.5) * size
        draw.text((left - _GAP, y), name, _INK, font, anchor="rm")
        if right > left + cells.width and not np.isnan(iou[row]):
            draw.text((right - 12, y), f"{100 * iou[row]:.1f}", _INK, font, anchor="rm")
    if right > left + cells.width:
        draw.text((right - 12, top - _GAP), "IoU", _INK, font, anchor="rs")
    return picture


def _cells(shares: Float[np.ndarray, "labels columns"], *, size: int, font: _Font) -> Image.Image:
    """Draws the matrix: a colour for each cell, grid and numbers if the cells are large enough."""
    # The square root makes small confusions visible.
    known = np.sqrt(np.nan_to_num(shares))[..., None]
    colours = np.where(np.isnan(shares)[..., None], _PALE, _LOW + (_HIGH - _LOW) * known)
    pixels = colours.round().astype(np.uint8).repeat(size, 0).repeat(size, 1)
    if size >= 16:
        pixels[::size], pixels[:, ::size] = _GRID, _GRID
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_GRID)
    if size < 24:
        return picture
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        share = shares[row, column]
        place = ((column + 0.5) * size, (row + 0.5) * size)
        ink = "white" if share > 0.3 else _INK
        draw.text(place, f"{100 * share:.0f}", ink, font, anchor="mm")
    return picture


def _shares(
    confusion: Integer[np.ndarray, "labels columns"], *, totals: Integer[np.ndarray, " labels"]
) -> Float[np.ndarray, "labels columns"]:
    """Divides each row by its total; nan for labels without pixels."""
    with np.errstate(invalid="ignore"):
        return np.where(totals[:, None] > 0, confusion / totals[:, None], np.nan)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _upright(
    picture: Image.Image,
    foot: tuple[int, int],
    text: str,
    *,
    width: int,
    font: _Font,
) -> None:
    """Draws text that runs upwards from above a column."""
    length = int(font.getlength(text)) + 4
    strip = Image.new("RGB", (length, width), "white")
    ImageDraw.Draw(strip).text((0, width / 2), text, _INK, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    picture.paste(turned, (foot[0], foot[1] - length))
