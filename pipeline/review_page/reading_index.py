"""Reads the index of a table: the columns of its latest rows that the grid sorts and filters by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.review_page.arrow_arrays import arrow_integers, numpy_numbers, places_in
from pipeline.review_page.index import LabelSegments, TableIndex
from pipeline.runtime.threads import map_ahead
from pipeline.storage import Storage
from pipeline.storage.uris import LOCAL, local_path, protocol
from pipeline.table.latest import latest_images, latest_segments
from pipeline.table.store import IMAGES, SEGMENTS, TableStore
from pipeline.table.strangeness import strangeness, surprises

COLUMNS = (
    "image_id", "uri", "member", "etag", "unit_id", "height", "width", "num_segments", "coverage",
    "mean_score",
)  # fmt: skip
"""Columns of `images` that the index holds."""
_REPEATED = ("uri", "etag", "unit_id")  # few of their values differ
_THREADS = 4
_OF_SEGMENTS = ("image_id", "label_id", "score", "area")


@dataclass(frozen=True, kw_only=True)
class _Segments:
    """The columns of segments; an image is its place in the index."""

    images: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    areas: npt.NDArray[np.int64]


def read_index(table: str, *, num_labels: int, storage: Storage) -> TableIndex:
    """Reads the images without error, and label, score and area of their segments."""
    rows, batches = _latest_rows(table, storage=storage)
    is_ok = np.array([status == "ok" for status in rows["status"].to_pylist()], np.bool_)
    order = numpy_numbers(pc.sort_indices(rows["image_id"])).astype(np.int64)
    images = rows.select(COLUMNS).take(arrow_integers(order[is_ok[order]]))
    for name in _REPEATED:
        place = images.schema.get_field_index(name)
        images = images.set_column(place, name, images[name].combine_chunks().dictionary_encode())
    segments = _segments(batches, images["image_id"])
    strange = strangeness(
        mean_score=_floats(images, "mean_score"),
        coverage=_floats(images, "coverage"),
        surprise=surprises(
            segments.images,
            segments.labels,
            segments.areas,
            num_images=len(images),
            num_labels=num_labels,
        ),
    )
    by_label = LabelSegments.of(
        images=segments.images,
        labels=segments.labels,
        scores=segments.scores,
        num_labels=num_labels,
    )
    return TableIndex(images, by_label, strangeness=strange, num_errors=len(rows) - len(images))


def _latest_rows(table: str, *, storage: Storage) -> tuple[pa.Table, Iterable[pa.RecordBatch]]:
    """Reads the latest row of each image, and opens the segments that belong to them."""
    store = TableStore(table, storage)
    wanted = pa.schema([IMAGES.field(name) for name in (*COLUMNS, "status")])
    rows = pa.Table.from_batches(_batches(store, "images", wanted=wanted), wanted)
    if pc.count_distinct(rows["image_id"]).as_py() == len(rows):
        # Every image was segmented once: there are no older rows to leave out.
        of_segments = pa.schema([SEGMENTS.field(name) for name in _OF_SEGMENTS])
        return rows, _batches(store, "segments", wanted=of_segments)
    rows = latest_images(table, columns=wanted.names, storage=storage).read_all()
    return rows, latest_segments(table, columns=_OF_SEGMENTS, storage=storage)


def _batches(
    table: TableStore, part: Literal["images", "segments"], *, wanted: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Reads columns of all rows of a part of the table."""
    columns = wanted.names
    if protocol(table.uri) not in LOCAL:
        yield from table.dataset(part, wanted).to_batches(columns=columns)
        return
    # Without Arrow's data sets, which import pandas: half a second until the first grid.
    paths = [local_path(table.file(name)) for name in table.units().file_names(part)]

    def read(path: str) -> list[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            rows = file.read(columns=columns, use_threads=False)
        return rows.select(columns).cast(wanted).to_batches()

    for batches in map_ahead(read, paths, num_threads=_THREADS):
        yield from batches


def _segments(batches: Iterable[pa.RecordBatch], image_ids: pa.ChunkedArray) -> _Segments:
    """Collects the columns of segments; leaves out those of images that the index lacks."""
    ids: list[pa.Array] = []
    lengths, labels, scores, areas = [], [], [], []
    for batch in batches:
        if not len(batch):
            continue
        # An image's segments are neighbours, so that few ids are looked up.
        runs = pc.run_end_encode(batch["image_id"])
        ids.append(runs.values)
        lengths.append(np.diff(numpy_numbers(runs.run_ends), prepend=0))
        labels.append(numpy_numbers(batch["label_id"]))
        scores.append(numpy_numbers(batch["score"], missing=np.nan))
        areas.append(numpy_numbers(batch["area"]))
    every = pa.chunked_array(ids, pa.string())
    places = places_in(every, of=image_ids).astype(np.int32)
    images = np.repeat(places, _joined(lengths, np.int64))
    is_known = images >= 0
    return _Segments(
        images=images[is_known],
        labels=_joined(labels, np.int32)[is_known],
        scores=_joined(scores, np.float32)[is_known],
        areas=_joined(areas, np.int64)[is_known],
    )


def _joined(arrays: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind, copy=False)


def _floats(images: pa.Table, name: str) -> npt.NDArray[np.float32]:
    return numpy_numbers(images[name], missing=np.nan)
