"""Defines the rows that actors return of images, and splits them into the two tables.

`segmenter.py` makes them, `commit.py` stages and commits them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import pyarrow as pa

from pipeline.runtime.skips import SKIPPED
from pipeline.storage.retries import take_retries
from pipeline.table.store import IMAGES, SEGMENTS

WHOLE_INSTANCES = pa.field(
    "whole_instances",
    pa.list_(pa.struct([("label_id", pa.int32()), ("score", pa.float64()), ("rle", pa.string())])),
)
"""The best instances of an image with whole, overlapping masks; for evaluation alone."""

RETRIES = pa.list_(
    pa.struct([("kind", pa.string()), ("count", pa.int64()), ("seconds", pa.float64())])
)
"""Requests that a process repeated at the storage; see `taken_retries`."""

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


ImageKey: TypeAlias = tuple[str, int]
"""Unit and position: the same image has the same key in every attempt."""


def image_key(row: Mapping[str, Any]) -> ImageKey:
    return row["unit_id"], row["position"]


def taken_retries() -> list[dict[str, Any]]:
    """Returns the storage requests that this process repeated since the last call."""
    return [dataclasses.asdict(each) for each in take_retries()]


def image_table(rows: pa.Table) -> pa.Table:
    """Returns the rows of `images`."""
    return rows.select(IMAGES.names).cast(IMAGES)


def segment_table(rows: pa.Table) -> pa.Table:
    """Returns the rows of `segments`: by image, then in the order of each image's list."""
    lists = rows["segments"].combine_chunks()
    parents = pa.compute.list_parent_indices(lists)
    flat = pa.compute.list_flatten(lists)
    columns = {name: rows[name].take(parents) for name in _OF_THE_IMAGE}
    for index, field in enumerate(flat.type):
        columns[field.name] = flat.field(index)
    return pa.table([columns[name] for name in SEGMENTS.names], names=SEGMENTS.names).cast(SEGMENTS)
