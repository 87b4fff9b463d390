"""Draws tables of many images in seconds: their photographs are eight files."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SECOND_LABEL, SEGMENTS, TableStore, parquet_options

SPEC = panoptic_spec(*(f"label {number}" for number in range(133)))
_HEIGHT, _WIDTH, _UNIT_IMAGES = 480, 640, 1000


def draw_large_table(place: str, *, images: int, segments: int) -> str:
    """Writes a table of units of a thousand images, whose photographs are eight files."""
    table = TableStore(place, Storage())
    table.create(SPEC)
    shapes = _drawn_shapes(segments)
    photos = [f"{place}-photos/{number}.jpg" for number in range(8)]
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
    for number, photo in enumerate(photos):
        buffer = io.BytesIO()
        picture = Image.fromarray(np.roll(pixels, number, 0)).resize((_WIDTH, _HEIGHT))
        picture.save(buffer, "JPEG", quality=90)
        table.storage.write(photo, buffer.getvalue())
    etags = [table.storage.file(photo).etag for photo in photos]  # type: ignore[union-attr]
    for unit, first in enumerate(range(0, images, _UNIT_IMAGES)):
        count = min(_UNIT_IMAGES, images - first)
        for part, rows in _unit_rows(
            f"{unit:016x}", first, count, segments=segments, shapes=shapes, photos=photos,
            etags=etags, random=random,
        ):  # fmt: skip
            buffer = io.BytesIO()
            pq.write_table(rows, buffer, row_group_size=2000, **parquet_options(rows.schema))
            table.storage.write(table.file(part, f"{unit:016x}.parquet"), buffer.getvalue())
    return table.uri


def _unit_rows(
    unit: str,
    first: int,
    count: int,
    *,
    segments: int,
    shapes: Any,
    photos: list[str],
    etags: list[str],
    random: np.random.Generator,
) -> Iterator[tuple[str, pa.Table]]:
    """Yields the two files of a unit."""
    names = [
        f"2026/camera-{n % 7}/{n * 7919 % 10**8:08}-{n}.jpg" for n in range(first, first + count)
    ]
    scores = random.beta(8, 2, (count, segments)).astype(np.float32)
    labels = np.minimum(random.geometric(0.05, (count, segments)) - 1, len(SPEC.labels) - 1)
    many = count * segments
    boxes = np.tile(shapes.boxes_xywh, (count, 1))
    yield (
        "segments",
        pa.table(
            {
                "image_id": np.repeat(np.array(names, object), segments),
                "segment_id": np.tile(np.arange(1, segments + 1), count),
                "label_id": labels.ravel(),
                "label": np.array(SPEC.labels, object)[labels.ravel()],
                "is_thing": np.ones(many, np.bool_),
                "score": scores.ravel(),
                "area": np.tile(shapes.areas, count),
                **{f"bbox_{side}": boxes[:, at] for at, side in enumerate("xywh")},
                "height": np.full(many, _HEIGHT),
                "width": np.full(many, _WIDTH),
                "rle": np.tile(np.array(shapes.rles, object), count),
            },
            schema=pa.schema([field for field in SEGMENTS if field.name not in SECOND_LABEL]),
        ),
    )
    yield (
        "images",
        pa.table(
            {
                "image_id": names,
                "uri": [photos[n % len(photos)] for n in range(count)],
                "member": pa.nulls(count, pa.string()),
                "etag": [etags[n % len(photos)] for n in range(count)],
                "unit_id": [unit] * count,
                "position": np.arange(count),
                "height": np.full(count, _HEIGHT),
                "width": np.full(count, _WIDTH),
                "status": ["ok"] * count,
                "error_class": pa.nulls(count, pa.string()),
                "error_message": pa.nulls(count, pa.string()),
                "num_segments": np.full(count, segments),
                "coverage": random.beta(9, 1, count).astype(np.float32),
                "mean_score": scores.mean(1),
            },
            schema=IMAGES,
        ),
    )


def _drawn_shapes(segments: int) -> Any:
    """Returns areas, boxes and run lengths of wavy bands."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    waves = rows + 12 * np.sin(columns / 23) + 5 * np.sin(columns / 5)
    band = np.clip(waves * segments / _HEIGHT, 0, segments - 1).astype(np.int32)
    return encode_segments(band + 1)
