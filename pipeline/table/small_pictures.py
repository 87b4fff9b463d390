"""Sizes, masks and bytes of the small pictures in reports."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskformer import decode_rle

LARGEST_SIDE = 360
_LONGEST_NAME = 40


def shrunk_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) of the small picture of an image."""
    scale = min(1.0, LARGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def small_mask(row: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Returns a segment's mask in the size of the small picture."""
    size = row["height"], row["width"]
    rows, columns = (
        ((np.arange(small) + 0.5) * full / small).astype(int)
        for small, full in zip(shrunk_size(size), size, strict=True)
    )
    return decode_rle(row["rle"], height=size[0], width=size[1])[np.ix_(rows, columns)]


def drawable(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns segments with short names of one line: others cannot be drawn."""
    return [{**row, "label": " ".join(row["label"].split())[:_LONGEST_NAME]} for row in rows]


def small_jpeg(picture: Image.Image, *, most_bytes: int) -> bytes:
    """Encodes with the best quality that keeps the bound of bytes."""
    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= most_bytes:
            break
    return buffer.getvalue()
