"""Defines queues: chosen images with rank and reasons, as a corpus manifest."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.manifests import SLICE
from pipeline.corpora.sources import Source
from pipeline.storage import Storage

QUEUE = pa.schema(
    [
        ("image_id", pa.string()),
        ("rank", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        ("label", pa.string()),
        ("strength", pa.float64()),
        ("uri", pa.string()),
        ("member", pa.string()),
        *SLICE,
    ]
)
"""One row per image; `rank` counts from 1. `label` is the label that it was chosen for.

`uri` and `image_id` make it a manifest, and for a part of an archive or of a Parquet file the
columns `manifests.SLICE` say which part."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An image of a queue."""

    image_id: str
    label: str | None
    """None for an image without a segment."""
    strength: float
    """How strong the reason is; comparable within one queue."""
    reasons: tuple[str, ...]
    uri: str
    member: str | None
    etag: str


def queue_rows(chosen: Sequence[Chosen], *, sources: Mapping[str, Source]) -> pa.Table:
    """Returns the rows of a queue, in the given order; `sources` has those that are there still."""
    rows = []
    for rank, each in enumerate(chosen, 1):
        source = sources.get(each.image_id)
        row = {
            "image_id": each.image_id, "rank": rank, "reasons": list(each.reasons),
            "label": each.label, "strength": each.strength, "uri": each.uri,
            "member": each.member,
        }  # fmt: skip
        if source is not None and source.kind != "file":
            row |= {
                "slice_of": source.name, "slice_start": source.start, "slice_stop": source.stop,
                "slice_etag": source.etag,
            }  # fmt: skip
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=QUEUE)


def write_queue(rows: pa.Table, place: str, *, storage: Storage) -> None:
    """Writes a queue, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    storage.write(place, buffer.getvalue())
