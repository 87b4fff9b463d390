"""Builds the rows of images from their segmentations.

`segmenting.py` and the evaluation's `multi_view_segmenter.py` give these rows; `commit.py` stages
them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from maskformer import Segmentation, encode_segments
from pipeline.labelling.rows import ROWS, ImageKey, image_key
from pipeline.labelling.settings import SegmentSettings

_NO_SEGMENTS = {"status": "error", "num_segments": 0, "segments": []}


def segment_columns(
    segmentation: Segmentation,
    *,
    size: tuple[int, int],
    settings: SegmentSettings,
    labels: Mapping[int, str],
) -> dict[str, Any]:
    """Returns the columns of `ROWS` that describe an image's segments."""
    shapes = encode_segments(segmentation.segmentation.numpy())
    by_id = {segment.id: segment for segment in segmentation.segments}
    segments = []
    columns = zip(
        shapes.ids.tolist(),
        shapes.areas.tolist(),
        shapes.boxes_xywh.tolist(),
        shapes.rles,
        strict=True,
    )
    for segment_id, area, (x, y, w, h), rle in columns:
        segment = by_id[segment_id]
        segments.append(
            {
                "segment_id": segment_id,
                "label_id": segment.label_id,
                "label": labels[segment.label_id],
                "is_thing": settings.is_thing(segment.label_id),
                "score": segment.score,
                "area": area,
                "bbox_x": x,
                "bbox_y": y,
                "bbox_w": w,
                "bbox_h": h,
                "rle": rle,
            }
        )
    height, width = size
    scores = [segment["score"] for segment in segments]
    return {
        "status": "ok",
        "num_segments": len(segments),
        "coverage": sum(segment["area"] for segment in segments) / (height * width),
        "mean_score": sum(scores) / len(scores) if scores else None,
        "segments": segments,
    }


def error_columns(error_class: str, message: str) -> dict[str, Any]:
    """Returns the columns of `ROWS` of an image that could not be segmented."""
    return {**_NO_SEGMENTS, "error_class": error_class, "error_message": message}


def segmented_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[ImageKey, Mapping[str, Any]],
    *,
    schema: pa.Schema = ROWS,
) -> pa.Table:
    """Returns rows of `loading.BLOCK` with the columns of their segments.

    Args:
        columns: by unit and position; images without an entry failed before they were segmented.
    """
    return pa.Table.from_pylist([{**_plain(row), **_added(row, columns)} for row in rows], schema)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in ROWS.names}


def _added(
    row: Mapping[str, Any], columns: Mapping[ImageKey, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Returns the columns to add; none to rows of ends and faults, which are no image."""
    return columns.get(image_key(row), _NO_SEGMENTS) if row["kind"] == "image" else {}
