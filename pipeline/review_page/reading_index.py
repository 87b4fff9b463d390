"""Reads the index of a table: the columns of its latest rows that the grid sorts and filters by."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.review_page.index import LabelSegments, TableIndex
from pipeline.review_page.strangeness import strangeness, surprises
from pipeline.storage import Storage
from pipeline.table.latest import latest_images, latest_segments

COLUMNS = (
    "image_id", "uri", "member", "etag", "unit_id", "height", "width", "num_segments", "coverage",
    "mean_score",
)  # fmt: skip
"""Columns of `images` that the index holds."""
# Few of their values differ.
_REPEATED = ("uri", "etag", "unit_id")


def read_index(table: str, *, num_labels: int, storage: Storage) -> TableIndex:
    """Reads the images without error, and label, score and area of their segments."""
    rows = latest_images(table, columns=[*COLUMNS, "status"], storage=storage).read_all()
    images = rows.filter(pc.field("status") == "ok").select(COLUMNS)
    images = images.take(pc.sort_indices(images["image_id"]))
    for name in _REPEATED:
        place = images.schema.get_field_index(name)
        images = images.set_column(place, name, images[name].combine_chunks().dictionary_encode())
    images = images.combine_chunks()
    segments = _segments(table, images["image_id"], storage=storage)
    strange = strangeness(
        mean_score=_floats(images, "mean_score"),
        coverage=_floats(images, "coverage"),
        surprise=surprises(
            segments["image"],
            segments["label_id"],
            segments["area"],
            num_images=len(images),
            num_labels=num_labels,
        ),
    )
    return TableIndex(
        images,
        LabelSegments.of(
            images=segments["image"],
            labels=segments["label_id"],
            scores=segments["score"],
            num_labels=num_labels,
        ),
        strangeness=strange,
        num_errors=len(rows) - len(images),
    )


def _segments(table: str, image_ids: pa.ChunkedArray, *, storage: Storage) -> dict[str, Any]:
    """Returns the columns of all segments; an image is its place in `image_ids`."""
    names = ("label_id", "score", "area")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ids, lengths = [], []
    reader = latest_segments(table, columns=["image_id", *names], storage=storage)
    for batch in _filled(reader):
        # An image's segments are neighbours, so that few ids are looked up.
        runs = pc.run_end_encode(batch["image_id"])
        ids.append(runs.values)
        lengths.append(np.diff(runs.run_ends.to_numpy(), prepend=0))
        for name in names:
            columns[name].append(batch[name].to_numpy(zero_copy_only=False))
    every = pa.chunked_array(ids, pa.string())
    places = pc.index_in(every, value_set=image_ids).combine_chunks()
    found = np.repeat(
        places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32),
        np.concatenate([[0], *lengths]).astype(np.int64)[1:],
    )
    kinds = {"label_id": np.int32, "score": np.float32, "area": np.int64}
    joined = {
        name: np.concatenate([np.zeros(0, kinds[name]), *columns[name]]).astype(kinds[name])
        for name in names
    }
    is_known = found >= 0
    return {"image": found[is_known], **{n: column[is_known] for n, column in joined.items()}}


def _filled(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    return (batch for batch in reader if len(batch))


def _floats(images: pa.Table, name: str) -> np.ndarray:
    column = images[name].combine_chunks().cast(pa.float32())
    return column.to_numpy(zero_copy_only=False)
