"""Pictures of an evaluation: what is taken for what, and the worst images beside their truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, ImageDraw, ImageFont

from maskformer import encode_mask, encode_segments
from pipeline.drawing import draw_segments
from pipeline.evaluation.judging import Judge
from pipeline.labelled.target import Target

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK, _PALE, _GRID = (40, 40, 40), (235, 235, 235), (215, 215, 215)
_LOW, _HIGH = np.array([255, 255, 255]), np.array([8, 48, 107])
_MARGIN = 16
_LONGEST_NAME = 28
_TITLE = "true label (row) by predicted label (column), %"
_TILE_WIDTH, _CAPTION_HEIGHT, _GAP = 480, 26, 6


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """An image, what is known of it, and what was predicted."""

    image_id: str
    score: float
    photo: Image.Image
    target: Target
    segments: Sequence[Mapping[str, Any]]
    """Rows of a segment table."""


def confusion_picture(
    confusion: Integer[np.ndarray, "labels labels_and_none"],
    *,
    names: Sequence[str],
    iou: Sequence[float],
) -> Image.Image:
    """For each true label, a row: which share of its pixels got which label, and its IoU behind."""
    count = len(names)
    cell = max(6, min(44, 1400 // count))
    names = [_short(name) for name in names]
    font = ImageFont.load_default(size=max(6, min(14, cell - 1)))
    columns = [*names, "none"] if confusion[:, -1].any() else list(names)
    left = _MARGIN + max(int(font.getlength(name)) for name in names) + 8
    top = 52 + max(int(font.getlength(name)) for name in columns) + 8
    behind = 70 if cell >= 12 else 0
    title = ImageFont.load_default(size=16)
    width = max(left + len(columns) * cell + behind, _MARGIN + int(title.getlength(_TITLE)))
    picture = Image.new("RGB", (width + _MARGIN, top + count * cell + _MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 12), _TITLE, _INK, title)
    shares = _shares(confusion[:, : len(columns)], totals=confusion.sum(1))
    for column, name in enumerate(columns):
        _upright(picture, (left + column * cell, top - 8), name, width=cell, font=font)
    for row, name in enumerate(names):
        y = top + row * cell
        draw.text((left - 8, y + cell / 2), name, _INK, font, anchor="rm")
        for column in range(len(columns)):
            x = left + column * cell
            _cell(draw, (x, y), shares[row, column], size=cell, font=font)
        if behind:
            text = "" if np.isnan(iou[row]) else f"{100 * iou[row]:.1f}"
            x = left + len(columns) * cell + behind - 12
            draw.text((x, y + cell / 2), text, _INK, font, anchor="rm")
    if behind:
        x = left + len(columns) * cell + behind - 12
        draw.text((x, top - 8), "IoU", _INK, font, anchor="rs")
    draw.rectangle((left, top, left + len(columns) * cell, top + count * cell), outline=_GRID)
    return picture


def worst_sheet(worst: Sequence[WorstImage], *, judge: Judge, metric: str) -> Image.Image:
    """A line for each image: photo, truth and prediction; a label has one colour in all."""
    font = ImageFont.load_default(size=16)
    lines = [_line(image, judge=judge, metric=metric, font=font) for image in worst]
    if not lines:
        sheet = Image.new("RGB", (3 * _TILE_WIDTH, 2 * _CAPTION_HEIGHT), "white")
        ImageDraw.Draw(sheet).text((8, 16), "no image could be scored", _INK, font)
        return sheet
    width = max(line.width for line in lines)
    sheet = Image.new("RGB", (width, sum(line.height + _GAP for line in lines)), "white")
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height + _GAP
    return sheet


def _line(image: WorstImage, *, judge: Judge, metric: str, font: _Font) -> Image.Image:
    tiles = [
        image.photo.convert("RGB"),
        draw_segments(image.photo, _true_rows(image.target, judge=judge)),
        draw_segments(image.photo, _predicted_rows(image, judge=judge)),
    ]
    height = max(1, round(image.photo.height * _TILE_WIDTH / image.photo.width))
    line = Image.new("RGB", (3 * _TILE_WIDTH + 2 * _GAP, height + _CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(line)
    captions = (f"{image.image_id}   {metric} {image.score:.3f}", "truth", "prediction")
    for column, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        x = column * (_TILE_WIDTH + _GAP)
        draw.text((x + 4, _CAPTION_HEIGHT / 2), caption, _INK, font, anchor="lm")
        line.paste(tile.resize((_TILE_WIDTH, height)), (x, _CAPTION_HEIGHT))
    return line


def _predicted_rows(image: WorstImage, *, judge: Judge) -> list[dict[str, Any]]:
    rows = []
    for row in image.segments:
        label = judge.data_label_of[row["label_id"]]
        is_region = judge.task == "semantic"
        rows.append(
            {
                **row,
                "label_id": label,
                "label": judge.labels.names[label],
                # A region's brightness goes by its label, to be the same in both pictures.
                "segment_id": label if is_region else row["segment_id"],
                "score": None if is_region else row["score"],
                "height": image.target.size[0],
                "width": image.target.size[1],
            }
        )
    return rows


def _true_rows(target: Target, *, judge: Judge) -> list[dict[str, Any]]:
    size = {"height": target.size[0], "width": target.size[1]}
    if judge.task == "semantic":
        void = len(judge.labels.names)
        labels = target.label_map(ignore_index=void)
        masks = {label: labels == label for label in np.unique(labels).tolist() if label != void}
        return [
            {
                "segment_id": label,
                "label_id": label,
                "label": judge.labels.names[label],
                "score": None,
                "area": int(mask.sum()),
                "rle": encode_mask(mask),
                **size,
            }
            for label, mask in masks.items()
        ]
    shapes = encode_segments(target.ids)
    by_id = {segment.id: segment for segment in target.segments}
    return [
        {
            "segment_id": segment_id,
            "label_id": by_id[segment_id].label_id,
            "label": judge.labels.names[by_id[segment_id].label_id]
            + (" (crowd)" if by_id[segment_id].is_crowd else ""),
            "score": None,
            "area": area,
            "rle": rle,
            **size,
        }
        for segment_id, area, rle in zip(
            shapes.ids.tolist(), shapes.areas.tolist(), shapes.rles, strict=True
        )
    ]


def _shares(
    confusion: Integer[np.ndarray, "labels columns"], *, totals: Integer[np.ndarray, " labels"]
) -> Float[np.ndarray, "labels columns"]:
    """Of each row's pixels, nan where there are none."""
    with np.errstate(invalid="ignore"):
        return np.where(totals[:, None] > 0, confusion / totals[:, None], np.nan)


def _cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    share: float,
    *,
    size: int,
    font: _Font,
) -> None:
    x, y = corner
    box = (x, y, x + size - 1, y + size - 1)
    if np.isnan(share):
        draw.rectangle(box, _PALE)
        return
    # The square root, so that small confusions are seen.
    colour = _LOW + (_HIGH - _LOW) * np.sqrt(share)
    outline = _GRID if size >= 16 else None
    draw.rectangle(box, tuple(colour.round().astype(int).tolist()), outline=outline)
    if size >= 24 and share >= 0.005:
        ink = "white" if share > 0.3 else _INK
        draw.text((x + size / 2, y + size / 2), f"{100 * share:.0f}", ink, font, anchor="mm")


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
    """Text that runs upwards from above a column."""
    length = int(font.getlength(text)) + 4
    strip = Image.new("RGB", (length, width), "white")
    ImageDraw.Draw(strip).text((0, width / 2), text, _INK, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    picture.paste(turned, (foot[0], foot[1] - length))
