"""Parquet files with a photograph and a map in each row.

The map is a label map; with a column `segments_info`, a list of structs `{id, label_id, iscrowd}`
or such a list as JSON, it holds segment ids. `category_id` will do for `label_id`; the names that
the hub keeps in a file (ClassLabel) are the labels where no labels.json names any.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.parquet_images import bytes_column, parquet_schema
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.data_location import LOCATION, DataLocation, read_cell
from pipeline.datasets.dataset import LabelledImages, Truth, rows_schema, where
from pipeline.datasets.label_maps import LabelMapTruth
from pipeline.datasets.label_names import KnownNames, label_names
from pipeline.datasets.maps import decode_id_map
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.shards import data_files, described_segments
from pipeline.datasets.target import LabelError, Labels, Target, id_map_target
from pipeline.storage import File, Storage

_LABEL_COLUMNS = (
    "label", "label_map", "label_bytes", "labels", "mask", "map", "annotation", "segmentation",
)  # fmt: skip
_SEGMENTS = "segments_info"
_SCHEMA = rows_schema(("map", LOCATION))


@dataclass(frozen=True, kw_only=True)
class RowIdMapTruth:
    """A map of segment ids in each row, and beside it what they are."""

    label_values: tuple[int, ...] | None = None
    """What the rows call each label, by its id; None where by the id."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        place = DataLocation(**row["map"])
        name = where(row, place)
        said = read_cell(replace(place, column=_SEGMENTS), storage=storage)
        if isinstance(said, dict) and _SEGMENTS not in said:  # columns of lists, as the hub's are
            said = [
                dict(zip(said, values, strict=True))
                for values in zip(*(column or () for column in said.values()), strict=False)
            ]
        text = said if isinstance(said, str) else json.dumps(said)
        described = described_segments(
            (text if text.startswith("{") else f'{{"segments_info": {text}}}').encode(),
            label_values=self.label_values,
            place=name,
        )
        known = {segment.id for segment in described}
        ids = decode_id_map(place.read(storage), place=name, described=known)
        return id_map_target(ids, described, labels=labels, place=name)


def open_rows(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings, known: KnownNames
) -> LabelledImages:
    """The rows of a Parquet file, or of all files below a prefix.

    Raises:
        LabelError: a file cannot be read or lacks a column.
    """
    settings.refuse(
        "images", "maps", "image_suffix", "map_suffix", "label_members", "skip_unlabelled",
        because="Parquet files",
    )  # fmt: skip
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
    truth: Truth = LabelMapTruth(values=named.values)
    if has_segments == {True}:
        settings.refuse("ignore_index", "reduce_labels", because="maps of segment ids")
        truth = RowIdMapTruth(label_values=named.values.values)
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
    return LabelledImages(
        uri=storage.absolute(settings.dataset),
        kind="parquet",
        truths="labels" if isinstance(truth, LabelMapTruth) else "segments",
        labels=named.labels,
        rows=pa.Table.from_pylist(rows, schema=_SCHEMA),
        truth=truth,
        storage=storage,
        reading=reading,
        values=named.values if isinstance(truth, LabelMapTruth) else None,
        notes=named.notes if isinstance(truth, LabelMapTruth) else (),
    )


def parquet_keys(file: File, *, column: str | None, storage: Storage) -> list[str | None]:
    """The key of each row, None where rows are numbered.

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
    """The names that the hub's `datasets` keeps of the labels of segments (ClassLabel)."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        features = said["info"]["features"][_SEGMENTS]
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
    for row, key in enumerate(keys):
        place = DataLocation(uri=file.uri, etag=file.etag, size=file.size, row=row, column=photos)
        yield {
            "image_id": f"{name}/{row}" if key is None else key,
            "image": asdict(place),
            "map": asdict(replace(place, column=maps)),
        }


def _check_ids(rows: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["image_id"] in seen:
            raise LabelError(
                f"image {row['image_id']} is there twice, again in {row['image']['uri']}, row "
                f"{row['image']['row']}; keys must differ"
            )
        seen.add(row["image_id"])
