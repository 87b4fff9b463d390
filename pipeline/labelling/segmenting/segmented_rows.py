"""Builds the rows of images from their segments, column by column.

`segmenter.py` and the evaluation's `multi_view_segmenter.py` give these rows; `commit.py` stages
them. Rows become no Python objects on the way: their columns are made of arrays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from maskformer import EncodedSegments
from pipeline.corpora.error_classes import ErrorClass
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES, ImageKey, image_key
from pipeline.labelling.settings import SegmentSettings

_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True, kw_only=True)
class ImageFailure:
    """Why an image has no segments."""

    error_class: ErrorClass
    message: str


@dataclass(frozen=True, kw_only=True)
class SegmentedImages:
    """The segments of some images of a block, and the images that could not be segmented."""

    keys: tuple[ImageKey, ...] = ()
    segments: EncodedSegments | None = None
    """Of the images of `keys`, in their order; None where there are none."""

    whole_instances: Mapping[ImageKey, list[dict[str, Any]]] = field(default_factory=dict)
    failures: Mapping[ImageKey, ImageFailure] = field(default_factory=dict)


def segmented_rows(
    block: pa.Table,
    parts: Sequence[SegmentedImages],
    *,
    settings: SegmentSettings,
    labels: Mapping[int, str],
    schema: pa.Schema = ROWS,
) -> pa.Table:
    """Returns rows of `loading.BLOCK` with the columns of their segments.

    Args:
        parts: together all images that were in the model, in any order; others failed before.
    """
    columns = {name: block[name] for name in schema.names if name in block.column_names}
    keys = block.select(["unit_id", "position", "kind"]).to_pylist()
    row_of = {image_key(row): index for index, row in enumerate(keys) if row["kind"] == "image"}
    is_image = np.array([row["kind"] == "image" for row in keys], bool)
    columns |= _columns_of_segments(
        parts, row_of, is_image=is_image, block=block, settings=settings, labels=labels
    )
    failures = {row_of[key]: each for part in parts for key, each in part.failures.items()}
    if failures:
        columns["error_class"] = _replaced(
            block["error_class"], {row: each.error_class for row, each in failures.items()}
        )
        columns["error_message"] = _replaced(
            block["error_message"], {row: each.message for row, each in failures.items()}
        )
    if WHOLE_INSTANCES.name in schema.names:
        columns[WHOLE_INSTANCES.name] = pa.array(
            _whole_instances(parts, row_of, num_rows=len(keys)), WHOLE_INSTANCES.type
        )
    return pa.table([columns[each.name].cast(each.type) for each in schema], schema=schema)


def _columns_of_segments(
    parts: Iterable[SegmentedImages],
    row_of: Mapping[ImageKey, int],
    *,
    is_image: np.ndarray,
    block: pa.Table,
    settings: SegmentSettings,
    labels: Mapping[int, str],
) -> dict[str, pa.Array]:
    filled = [(part.keys, part.segments) for part in parts if part.segments is not None]
    rows = np.array([row_of[key] for keys, _ in filled for key in keys], np.int64)
    counts = np.zeros(len(is_image), np.int64)
    coverage = np.zeros(len(is_image))
    mean_scores: list[float | None] = [None] * len(is_image)
    if filled:
        segments = EncodedSegments.joined([each for _, each in filled])
        counts[rows] = segments.num_segments
        values = _struct(segments, settings=settings, labels=labels)
        if (np.diff(rows) < 0).any():
            values = values.take(pa.array(_segments_by_row(rows, segments.num_segments)))
        coverage[rows] = _areas_of_images(segments) / _pixels(block)[rows]
        ends = np.cumsum(segments.num_segments).tolist()
        scores = segments.scores.tolist()
        for row, begin, end in zip(rows.tolist(), [0, *ends], ends, strict=False):
            if end > begin:
                # In the order and precision of a sum of Python numbers.
                mean_scores[row] = sum(scores[begin:end]) / (end - begin)
    else:
        values = pa.array([], ROWS.field("segments").type.value_type)
    is_ok = np.zeros(len(is_image), bool)
    is_ok[rows] = True
    edges = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    return {
        "status": pa.array(np.where(is_ok, "ok", "error"), pa.string(), mask=~is_image),
        "num_segments": pa.array(counts.astype(np.int32), mask=~is_image),
        "coverage": pa.array(coverage.astype(np.float32), mask=~is_ok),
        "mean_score": pa.array(mean_scores, pa.float32()),
        "segments": pa.ListArray.from_arrays(
            pa.array(edges),
            values,
            type=ROWS.field("segments").type,
            mask=None if is_image.all() else pa.array(~is_image),
        ),
    }


def _struct(
    segments: EncodedSegments, *, settings: SegmentSettings, labels: Mapping[int, str]
) -> pa.StructArray:
    """Returns the segments as values of the column `segments`."""
    names = pa.array([labels[label] for label in range(len(labels))], pa.string())
    is_thing = np.array([settings.is_thing(label) for label in range(len(labels))], bool)
    arrays = {
        "segment_id": pa.array(segments.segment_ids),
        "label_id": pa.array(segments.label_ids),
        "label": names.take(pa.array(segments.label_ids)),
        "is_thing": pa.array(is_thing[segments.label_ids]),
        "score": pa.array(segments.scores.astype(np.float32)),
        "area": pa.array(segments.areas),
        "rle": pa.StringArray.from_buffers(
            len(segments.areas),
            pa.py_buffer(segments.rle_begins.astype(np.int32)),
            pa.py_buffer(np.ascontiguousarray(segments.rle_text)),
        ),
    }
    has_second = segments.second_label_ids >= 0
    second = pa.array(segments.second_label_ids, mask=~has_second)
    arrays |= {
        "second_label_id": second,
        "second_label": names.take(second),
        "second_score": pa.array(segments.second_scores.astype(np.float32), mask=~has_second),
    }
    for name, sides in zip(_BOX, segments.boxes_xywh.T, strict=True):
        arrays[name] = pa.array(np.ascontiguousarray(sides))
    fields = list(ROWS.field("segments").type.value_type)
    return pa.StructArray.from_arrays([arrays[each.name] for each in fields], fields=fields)


def _segments_by_row(rows: np.ndarray, num_segments: np.ndarray) -> np.ndarray:
    """Returns the places of the segments of images, in the order of the images' rows."""
    ends = np.cumsum(num_segments)
    order = np.argsort(rows, kind="stable")
    return np.concatenate([np.arange(ends[i] - num_segments[i], ends[i]) for i in order])


def _areas_of_images(segments: EncodedSegments) -> np.ndarray:
    """Returns the pixels in segments of each image."""
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(segments.areas)])
    ends = np.cumsum(segments.num_segments)
    return totals[ends] - totals[ends - segments.num_segments]


def _pixels(block: pa.Table) -> np.ndarray:
    """Returns the pixels of each row's image; 1 where the row has no size."""
    height, width = (
        block[name].fill_null(1).combine_chunks().to_numpy().astype(np.int64)
        for name in ("height", "width")
    )
    return height * width


def _replaced(column: pa.ChunkedArray, values: Mapping[int, str]) -> pa.Array:
    texts = column.to_pylist()
    for row, value in values.items():
        texts[row] = value
    return pa.array(texts, pa.string())


def _whole_instances(
    parts: Iterable[SegmentedImages], row_of: Mapping[ImageKey, int], *, num_rows: int
) -> list[list[dict[str, Any]] | None]:
    by_row: list[list[dict[str, Any]] | None] = [None] * num_rows
    for part in parts:
        for key, instances in part.whole_instances.items():
            by_row[row_of[key]] = instances
    return by_row
