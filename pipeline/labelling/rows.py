"""Rows: what an actor gives of each image, before it is committed.

`segmenting.py` makes them, `commit.py` stages them and splits them into the two tables.
"""

import dataclasses
from typing import Any

import pyarrow as pa

from pipeline.runtime.skips import SKIPPED
from pipeline.storage.retries import take_retries
from pipeline.table.store import IMAGES, SEGMENTS

WHOLE_INSTANCES = pa.field(
    "whole_instances",
    pa.list_(pa.struct([("label_id", pa.int32()), ("score", pa.float64()), ("rle", pa.string())])),
)
"""The best instances of an image with their whole masks, which overlap; for evaluation alone."""

RETRIES = pa.list_(
    pa.struct([("kind", pa.string()), ("count", pa.int64()), ("seconds", pa.float64())])
)
"""What a process had to ask of the storage again; see `taken_retries`."""

_OF_THE_IMAGE = ("image_id", "height", "width")

ROWS = pa.schema(
    [
        *IMAGES,
        ("segments", pa.list_(pa.struct([f for f in SEGMENTS if f.name not in _OF_THE_IMAGE]))),
        ("kind", pa.string()),  # as in `loading.BLOCK`
        ("bytes_read", pa.int64()),
        ("storage_retries", RETRIES),
        ("skipped", SKIPPED),
    ]
)
"""The columns of `images`, with the image's segments in a list."""


def taken_retries() -> list[dict[str, Any]]:
    """What this process had to ask of the storage again since it was last told."""
    return [dataclasses.asdict(each) for each in take_retries()]


def image_table(rows: pa.Table) -> pa.Table:
    """The rows of `images`."""
    return rows.select(IMAGES.names).cast(IMAGES)


def segment_table(rows: pa.Table) -> pa.Table:
    """The rows of `segments`, in the order of the images, then as they stand in each list."""
    lists = rows["segments"].combine_chunks()
    parents = pa.compute.list_parent_indices(lists)
    flat = pa.compute.list_flatten(lists)
    columns = {name: rows[name].take(parents) for name in _OF_THE_IMAGE}
    for index, field in enumerate(flat.type):
        columns[field.name] = flat.field(index)
    return pa.table([columns[name] for name in SEGMENTS.names], names=SEGMENTS.names).cast(SEGMENTS)
