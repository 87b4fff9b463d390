"""Reads predictions from a segment table, for the images of a data set."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.corpora.corpus import kind_of
from pipeline.corpora.parquet import read_parquet
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.labelling.reading.unit_loader import fault_row
from pipeline.labelling.rows import ROWS
from pipeline.storage import File, SourceChanged, Storage, StorageFault
from pipeline.table.latest import latest_images
from pipeline.table.store import IMAGES, TableStore, rows_of_unit

TASKS = pa.schema(
    [
        *(field for field in IMAGES if field.name not in ("position", "unit_id")),
        ("position", pa.int64()),  # the image's number in the data set
        ("file", pa.string()),
        ("file_etag", pa.string()),
        ("file_size", pa.int64()),
        ("file_unit", pa.string()),
    ]
)
"""Schema of a task: the images of one unit, and the file of their segments."""


@dataclass(frozen=True, kw_only=True)
class PredictionLoader:
    """Reads the segments of one unit's images; Ray Data calls it on each task."""

    storage: Storage

    def __call__(self, task: pa.Table) -> pa.Table:
        rows = task.to_pylist()
        first = rows[0]
        ids = [row["image_id"] for row in rows]
        try:
            with self.storage.open(
                first["file"], etag=first["file_etag"], size=first["file_size"]
            ) as file:
                rows_of = rows_of_unit(first["file"], first["file_unit"])
                chosen = ds.field("image_id").isin(ids) & rows_of
                found = read_parquet(file, rows=chosen).to_pylist()
        except (StorageFault, SourceChanged) as fault:
            return pa.Table.from_pylist([fault_row(fault, unit_id=None)], schema=ROWS)
        of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for segment in found:
            of_image[segment["image_id"]].append(segment)
        for row in rows:
            row |= {"kind": "image", "segments": of_image[row["image_id"]]}
        return pa.Table.from_pylist(rows, schema=ROWS)


def prediction_tasks(table: TableStore, *, dataset: LabelledImages) -> Iterator[pa.Table]:
    """Yields a task for each unit of the table that holds images of the data set.

    If an image was segmented more than once, its latest rows count. Images are matched by URI, or
    by image_id if the table has none of the data set's URIs, as when the data was copied.

    Raises:
        LabelError: the table lacks an image, or has it with an error.
    """
    rows = latest_images(table.uri, storage=table.storage).read_all()
    at = _found(rows, dataset=dataset)
    files = table.segment_files()
    for index, place in enumerate(at):
        if place is None:
            raise LabelError(
                f"image {dataset.image_id(index)} is not in {table.uri}, which has "
                f"{rows.num_rows} images; segment it first, or leave it out with --limit"
            )
    chosen = rows.take(pa.array(at, pa.int64()))
    chosen = chosen.append_column("index", pa.array(range(len(at)), pa.int64()))
    failed = chosen.filter(pc.not_equal(chosen["status"], "ok")).to_pylist()
    if failed:
        raise LabelError(f"image {failed[0]['image_id']}: {failed[0]['error_message']}")
    for unit_id in pc.unique(chosen["unit_id"]).to_pylist():
        yield _task(chosen.filter(pc.equal(chosen["unit_id"], unit_id)), file=files[unit_id])


def _task(unit: pa.Table, *, file: File) -> pa.Table:
    rows = [
        {
            **row,
            "position": row["index"],
            "file": file.uri,
            "file_etag": file.etag,
            "file_size": file.size,
            "file_unit": row["unit_id"],
        }
        for row in unit.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=TASKS)


def _found(rows: pa.Table, *, dataset: LabelledImages) -> list[int | None]:
    """Returns the row of each image of the data set, or None."""
    ids = rows["image_id"].to_pylist()
    uris = rows["uri"].to_pylist()
    data_ids = dataset.rows["image_id"].to_pylist()
    data_uris = pc.struct_field(dataset.rows["image"], "uri").to_pylist()
    keys: Mapping[Any, int]
    if set(uris) & set(data_uris):
        keys = {key: row for row, key in enumerate(map(_key, uris, ids))}
        return [keys.get(key) for key in map(_key, data_uris, data_ids)]
    keys = {image_id: row for row, image_id in enumerate(ids)}
    return [keys.get(image_id) for image_id in data_ids]


def _key(uri: str, image_id: str) -> tuple[str, str]:
    """Returns a key of the image that does not depend on the root of its id."""
    if kind_of(uri) not in ("tar", "parquet"):
        return uri, ""
    return uri, image_id.rpartition(f"{uri.rpartition('/')[2]}/")[2]
