"""Draws a contact sheet of the worst images: photo, truth and prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskformer import encode_mask, encode_segments
from pipeline.corpora.decoding import decode
from pipeline.datasets.checking import fitted
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import Target
from pipeline.evaluation.judging import Judge
from pipeline.evaluation.matching import UNMATCHED
from pipeline.table.drawing import draw_segments

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK = (40, 40, 40)
_TILE_WIDTH, _CAPTION_HEIGHT, _GAP = 480, 26, 6


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """An image with its target and its predicted segments."""

    image_id: str
    score: float
    photo: Image.Image
    target: Target
    segments: Sequence[Mapping[str, Any]]
    """Rows of a segment table."""


def worst_sheet(worst: Sequence[WorstImage], *, judge: Judge, metric: str) -> Image.Image:
    """Draws a line for each image: photo, truth, prediction; a label has one colour throughout."""
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


def worst_image(worst: Mapping[str, Any], *, dataset: LabelledImages) -> WorstImage:
    """Reads again an image from the list of worst images in a receipt of `scoring.py`."""
    labelled = dataset[worst["index"]]
    image = labelled.image
    decoded = decode(
        image.data or b"", name=image.name, max_pixels=dataset.reading.max_image_pixels
    )
    return WorstImage(
        image_id=image.image_id,
        score=worst["score"],
        photo=decoded.image,
        target=fitted(
            labelled.target,
            size=(decoded.height, decoded.width),
            photo=lambda: image,
            max_pixels=dataset.reading.max_image_pixels,
        ),
        segments=worst["segments"],
    )


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
        if label == UNMATCHED:
            continue
        is_region = judge.task == "semantic"
        rows.append(
            {
                **row,
                "label_id": label,
                "label": judge.labels.names[label],
                # A region's brightness follows from its label, to be the same in both pictures.
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
