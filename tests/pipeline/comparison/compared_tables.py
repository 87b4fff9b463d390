"""Pairs of small tables whose segments are drawn by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table
from corpora import put
from specs import panoptic_spec

from maskformer import encode_mask
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore

SIZE = (24, 32)
Box = tuple[int, int, int, int]
"""Top, left, bottom, right."""


@dataclass(frozen=True)
class Shape:
    """A segment: its label and the box of its mask."""

    label: str
    box: Box
    score: float = 0.9
    second: tuple[str, float] | None = None
    """The second label and its score."""

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        top, left, bottom, right = self.box
        mask = np.zeros(size, bool)
        mask[top:bottom, left:right] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class Regions:
    """An image's segments; in error where there are None."""

    shapes: Sequence[Shape] | None
    size: tuple[int, int] = SIZE


def write_drawn_table(
    folder: Path, images: Mapping[str, Regions], *, labels: Sequence[str], **changes: Any
) -> TableStore:
    """A table of one unit over grey photographs beside it."""
    photos = folder.parent / "photos"
    for name, drawn in images.items():
        if not (photos / name).exists():
            grey = np.full((*drawn.size, 3), 120, np.uint8)
            put(photos, {name: encode_image(grey, "JPEG")})
    table = TableStore(str(folder), Storage())
    spec = panoptic_spec(*labels, **changes)
    table.create(spec)
    rows = [
        _image_row(name, drawn, photos=photos, position=position)
        for position, (name, drawn) in enumerate(images.items())
    ]
    segments = [
        row for name, drawn in images.items() for row in _segment_rows(name, drawn, labels=labels)
    ]
    for part, schema, these in (("segments", SEGMENTS, segments), ("images", IMAGES, rows)):
        content = encode_table(pa.Table.from_pylist(these, schema=schema))
        table.storage.write(table.file(part, "u.parquet"), content)
    return table


def _image_row(name: str, drawn: Regions, *, photos: Path, position: int) -> dict[str, Any]:
    file = Storage().file(str(photos / name))
    is_ok = drawn.shapes is not None
    shapes = drawn.shapes or ()
    area = sum(int(shape.mask(drawn.size).sum()) for shape in shapes)
    return {
        "image_id": name, "uri": str(photos / name), "etag": file.etag, "unit_id": "u",
        "position": position, "status": "ok" if is_ok else "error",
        "error_class": None if is_ok else "NotAnImage",
        "height": drawn.size[0] if is_ok else None, "width": drawn.size[1] if is_ok else None,
        "num_segments": len(shapes),
        "coverage": area / (drawn.size[0] * drawn.size[1]) if is_ok else None,
        "mean_score": sum(s.score for s in shapes) / len(shapes) if shapes else None,
    }  # fmt: skip


def _segment_rows(name: str, drawn: Regions, *, labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for number, shape in enumerate(drawn.shapes or (), 1):
        mask = shape.mask(drawn.size)
        top, left, bottom, right = shape.box
        rows.append(
            {
                "image_id": name, "segment_id": number, "label_id": labels.index(shape.label),
                "label": shape.label, "is_thing": True, "score": shape.score,
                "area": int(mask.sum()), "bbox_x": left, "bbox_y": top, "bbox_w": right - left,
                "bbox_h": bottom - top, "height": drawn.size[0], "width": drawn.size[1],
                "rle": encode_mask(mask),
                **_second(shape, labels=labels),
            }
        )  # fmt: skip
    return rows


def _second(shape: Shape, *, labels: Sequence[str]) -> dict[str, Any]:
    if shape.second is None:
        return {}
    label, score = shape.second
    return {
        "second_label_id": labels.index(label), "second_label": label, "second_score": score,
    }  # fmt: skip
