"""Rows made column by column are those that are made row by row."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from maskformer import EncodedSegments, Segment, Segmentation, encode_segmentation, encode_segments
from pipeline.labelling.reading.unit_loader import BLOCK
from pipeline.labelling.rows import ROWS, WHOLE_INSTANCES
from pipeline.labelling.segmenting.segmented_rows import (
    ImageFailure,
    SegmentedImages,
    segmented_rows,
)
from pipeline.labelling.settings import SegmentSettings

LABELS = {label: f"label {label}" for label in range(5)}
SETTINGS = SegmentSettings(label_ids_to_fuse=(1, 3))
SIZES = [(5, 7), (1, 1), (40, 30), (8, 9), (13, 2)]


def segmentation(number: int) -> Segmentation:
    """Draws a map of four segments in stripes; the first image's is void."""
    generator = torch.Generator().manual_seed(number)
    height, width = SIZES[number]
    ids = torch.randint(0, 5, (height, width), generator=generator).int() * bool(number)
    scores = torch.rand(4, generator=generator).tolist()
    segments = tuple(
        Segment(
            id=index,
            label_id=(number + index) % 5,
            score=score,
            second_label_id=(number + index + 1) % 5 if index % 2 else None,
            second_score=score / 2 if index % 2 else None,
        )
        for index, score in enumerate(scores, start=1)
    )
    return Segmentation(segmentation=ids, segments=segments)


def mixed_block() -> pa.Table:
    """Five images, one that could not be decoded, an end and a fault, in two chunks."""
    rows: list[dict[str, Any]] = [
        {
            "unit_id": "u", "kind": "image", "position": number, "image_id": f"{number}.png",
            "uri": f"folder/{number}.png", "etag": "e", "height": height, "width": width,
            "bytes_read": 7 * number, "pixels": b"", "pixels_height": 1, "pixels_width": 1,
        }
        for number, (height, width) in enumerate(SIZES)
    ]  # fmt: skip
    bad = {"error_class": "NotAnImage", "error_message": "no image"}
    rows.insert(2, {"unit_id": "u", "kind": "image", "position": 9, "image_id": "9.png", **bad})
    retries = [{"kind": "read", "count": 2, "seconds": 0.5}]
    rows.append({"unit_id": "u", "kind": "end", "position": 6, "storage_retries": retries})
    rows.append({"unit_id": "v", "kind": "fault", "error_message": "StorageFault: away"})
    tables = [pa.Table.from_pylist(part, schema=BLOCK) for part in (rows[:3], rows[3:])]
    return pa.concat_tables(tables)


def row_by_row(failed: int | None = None) -> pa.Table:
    """Makes the same rows of Python's numbers, one by one."""
    rows = []
    for row in mixed_block().to_pylist():
        plain = {name: value for name, value in row.items() if name in ROWS.names}
        if row["kind"] != "image":
            rows.append(plain)
            continue
        if row["error_class"] or row["position"] == failed:
            columns: dict[str, Any] = {"status": "error", "num_segments": 0, "segments": []}
            if not row["error_class"]:
                columns |= {"error_class": "OutOfMemory", "error_message": "too large"}
            rows.append(plain | columns)
            continue
        found = segmentation(row["position"])
        shapes = encode_segments(found.segmentation.numpy())
        by_id = {segment.id: segment for segment in found.segments}
        segments = [
            {
                "segment_id": number,
                "label_id": by_id[number].label_id,
                "label": LABELS[by_id[number].label_id],
                "is_thing": SETTINGS.is_thing(by_id[number].label_id),
                "score": by_id[number].score,
                "area": area,
                **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True)),
                "rle": rle,
                "second_label_id": by_id[number].second_label_id,
                "second_label": LABELS.get(by_id[number].second_label_id),
                "second_score": by_id[number].second_score,
            }
            for number, area, box, rle in zip(
                shapes.ids.tolist(),
                shapes.areas.tolist(),
                shapes.boxes_xywh.tolist(),
                shapes.rles,
                strict=True,
            )
        ]
        scores = [each["score"] for each in segments]
        covered = sum(each["area"] for each in segments)
        rows.append(
            plain
            | {
                "status": "ok",
                "num_segments": len(segments),
                "coverage": covered / (row["height"] * row["width"]),
                "mean_score": sum(scores) / len(scores) if scores else None,
                "segments": segments,
            }
        )
    return pa.Table.from_pylist(rows, schema=ROWS)


def segmented_lots(lots: list[list[int]]) -> list[SegmentedImages]:
    return [
        SegmentedImages(
            keys=tuple(("u", number) for number in lot),
            segments=EncodedSegments.joined(
                [encode_segmentation(segmentation(number)) for number in lot]
            ),
        )
        for lot in lots
    ]


@pytest.mark.parametrize(
    "lots", [[[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[4, 2], [0, 3, 1]]]
)
def test_columns_are_those_of_rows_in_any_order_of_images(lots):
    found = segmented_rows(mixed_block(), segmented_lots(lots), settings=SETTINGS, labels=LABELS)
    found.validate(full=True)
    assert found.equals(row_by_row())
    assert found.schema.equals(ROWS)


def test_an_image_that_could_not_be_segmented_says_why():
    failure = ImageFailure(error_class="OutOfMemory", message="too large")
    failed = SegmentedImages(failures={("u", 3): failure})
    found = segmented_rows(
        mixed_block(), [*segmented_lots([[2, 0], [1, 4]]), failed], settings=SETTINGS, labels=LABELS
    )
    assert found.equals(row_by_row(failed=3))


def test_a_block_without_segments_has_rows():
    found = segmented_rows(mixed_block().slice(6), [], settings=SETTINGS, labels=LABELS)
    assert found.equals(row_by_row().slice(6))
    assert (
        segmented_rows(mixed_block().slice(0, 0), [], settings=SETTINGS, labels=LABELS).num_rows
        == 0
    )


def test_whole_instances_stand_beside_their_image():
    whole = [{"label_id": 1, "score": 0.25, "rle": "04"}]
    some = SegmentedImages(
        keys=(("u", 1),),
        segments=encode_segmentation(segmentation(1)),
        whole_instances={("u", 1): whole},
    )
    schema = ROWS.append(WHOLE_INSTANCES)
    found = segmented_rows(
        mixed_block(),
        [*segmented_lots([[0, 2, 3, 4]]), some],
        settings=SETTINGS,
        labels=LABELS,
        schema=schema,
    )
    assert found[WHOLE_INSTANCES.name].to_pylist() == [None, whole, *[None] * 6]
    assert np.array_equal(found["num_segments"].to_numpy()[:1], [0])
