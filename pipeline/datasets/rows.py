"""Opens Parquet files with a photograph and a map in each row.

The map is a label map; with a column `segments_info`, a list of structs `{id, label_id, iscrowd}`
or such a list as JSON, it holds segment ids. `category_id` may stand for `label_id`. Without a
labels.json, the names that the hub keeps in a file (ClassLabel) are the labels.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import bytes_column, parquet_schema
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.data_location import DataLocation
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.label_maps import maps_dataset, without_unlabelled
from pipeline.datasets.label_names import KnownNames, label_names
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.shards import DESCRIBED_MAPS, DescribedMapTruth, data_files
from pipeline.datasets.target import LabelError
from pipeline.storage import File, Storage

_LABEL_COLUMNS = (
    "label", "label_map", "label_bytes", "labels", "mask", "map", "annotation", "segmentation",
)  # fmt: skip
_SEGMENTS = "segments_info"


def open_rows(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings, known: KnownNames
) -> LabelledImages:
    """Opens the rows of a Parquet file, or of all such files below a prefix.

    Raises:
        LabelError: a file cannot be read or lacks a column.
    """
    settings.refuse(
        "images", "maps", "image_suffix", "map_suffix", "label_members", because="Parquet files"
    )
    root, files = data_files(settings, endings=("parquet",), storage=storage)
    schemas = [_schema(file, storage=storage) for file in files]
    stored = {_stored_names(schema) for schema in schemas} - {None}
    if len(stored) > 1:
        raise LabelError(
            f"the files of {settings.dataset} name their labels differently in {_SEGMENTS}; name "
            "them in one labels.json"
        )
    named = label_names(
        settings, folder=root, storage=storage, known=known, stored=next(iter(stored), None)
    )
    has_segments = {_SEGMENTS in schema.names for schema in schemas}
    if len(has_segments) > 1:
        raise LabelError(
            f"some files of {settings.dataset} have a column {_SEGMENTS}, and others have not; a "
            "data set has label maps or segments, not both"
        )
    truth = DescribedMapTruth(label_values=named.values.values) if has_segments == {True} else None
    rows = [
        row
        for file, schema in zip(files, schemas, strict=True)
        for row in _rows(
            file, schema, root=root, settings=settings, reading=reading, storage=storage
        )
    ]
    if not rows:
        raise LabelError(f"{settings.dataset} holds no rows")
    _check_ids(rows)
    rows, notes = without_unlabelled(rows, settings=settings)
    table = pa.Table.from_pylist(rows, schema=DESCRIBED_MAPS)
    return maps_dataset(
        settings, kind="parquet", rows=table, named=named, segments=truth, storage=storage,
        reading=reading, notes=notes,
    )  # fmt: skip


def parquet_keys(file: File, *, column: str | None, storage: Storage) -> list[str | None]:
    """Reads the key of each row; None without a key column.

    Raises:
        LabelError: there is no such column.
    """
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        parquet = pq.ParquetFile(data)
        if column is None:
            return [None] * parquet.metadata.num_rows
        if column not in parquet.schema_arrow.names:
            raise LabelError(f"{file.uri} has no column {column}; see --key_column")
        keys = parquet.read(columns=[column]).column(0).to_pylist()
    return [None if key is None else str(key) for key in keys]


def _schema(file: File, *, storage: Storage) -> pa.Schema:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        schema = parquet_schema(data)
    if schema is None:
        raise LabelError(f"{file.uri} cannot be read as Parquet")
    return schema


def _stored_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Returns the segments' label names that the hub's `datasets` stores (ClassLabel)."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        features = stored["info"]["features"][_SEGMENTS]
    except (KeyError, TypeError, ValueError):
        return None
    while features and isinstance(features, list):
        features = features[0]
    if isinstance(features, dict):
        features = features.get("feature", features)
    for name in ("label_id", "category_id"):
        kind = features.get(name) if isinstance(features, dict) else None
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and kind.get("names"):
            return tuple(map(str, kind["names"]))
    return None


def _rows(
    file: File,
    schema: pa.Schema,
    *,
    root: str,
    settings: DatasetSettings,
    reading: ReadSettings,
    storage: Storage,
) -> Iterator[dict[str, Any]]:
    maps = settings.label_column or next((n for n in _LABEL_COLUMNS if n in schema.names), None)
    if maps is None or maps not in schema.names:
        raise LabelError(
            f"{file.uri} has no column {maps or 'of label maps'}, but {', '.join(schema.names)}; "
            "name it by --label_column"
        )
    others = schema.remove(schema.get_field_index(maps))
    photos = bytes_column(others, settings=reading)
    if photos is None:
        raise LabelError(
            f"{file.uri} has no column of photographs, but {', '.join(others.names)}; name it by "
            "--image_column"
        )
    name = file.uri.removeprefix(f"{root}/")
    keys = parquet_keys(file, column=reading.key_column, storage=storage)
    without_map = (
        _null_rows(file, column=maps, storage=storage) if settings.skip_unlabelled else set()
    )
    for row, key in enumerate(keys):
        location = DataLocation(
            uri=file.uri, etag=file.etag, size=file.size, row=row, column=photos
        )
        yield {
            "image_id": f"{name}/{row}" if key is None else key,
            "image": asdict(location),
            "map": None if row in without_map else asdict(replace(location, column=maps)),
            "segments": asdict(replace(location, column=_SEGMENTS)),
        }


def _null_rows(file: File, *, column: str, storage: Storage) -> set[int]:
    """Returns the rows whose map is null; reads row groups only where statistics count nulls."""
    found: set[int] = set()
    first = 0
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        parquet = pq.ParquetFile(data)
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            chunks = [group.column(index) for index in range(group.num_columns)]
            null_counts = [
                chunk.statistics.null_count if chunk.statistics is not None else None
                for chunk in chunks
                if chunk.path_in_schema.split(".")[0] == column
            ]
            if any(nulls != 0 for nulls in null_counts):
                cells = parquet.read_row_group(number, columns=[column]).column(0)
                if pa.types.is_struct(cells.type):
                    cells = pc.struct_field(cells, "bytes")
                found.update((first + np.flatnonzero(cells.is_null().to_numpy())).tolist())
            first += group.num_rows
    return found


def _check_ids(rows: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["image_id"] in seen:
            raise LabelError(
                f"image {row['image_id']} is there twice, again in {row['image']['uri']}, row "
                f"{row['image']['row']}; keys must differ"
            )
        seen.add(row["image_id"])
