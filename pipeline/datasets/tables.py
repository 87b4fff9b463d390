"""Opens a segment table of this project as truth: what reviewers saved, or what the model says.

The photographs are read from their sources in the table, and must be unchanged. Of an image that
was segmented more than once, the latest rows count. Of a table with reviews only the images that a
person accepted or corrected are taken, unless the settings say otherwise.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from maskformer import decode_rle
from pipeline.corpora.corpus import kind_of
from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.parquet_images import bytes_column, parquet_schema
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.coco_panoptic import refuse_label_map_settings
from pipeline.datasets.data_location import LOCATION, DataLocation
from pipeline.datasets.dataset import LabelledImages, Truths, rows_schema
from pipeline.datasets.reviewed_images import ChosenImages, Revisions, choose_reviewed
from pipeline.datasets.rows import parquet_keys
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.shards import member_location, shard_members
from pipeline.datasets.target import LabelError, Labels, Target, TrueSegment
from pipeline.storage import File, Storage
from pipeline.table.latest import latest_images
from pipeline.table.store import TableStore, rows_of_unit

_TRUTHS: Mapping[str, Truths] = {
    "panoptic": "segments", "instance": "instances", "semantic": "labels",
}  # fmt: skip
_SCHEMA = rows_schema(
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("unit", LOCATION),
    ("unit_id", pa.string()),
    ("revision", pa.int32()),
)
"""`unit` is the file with the segments; `revision` is null where they are those of the model."""


@dataclass(frozen=True, kw_only=True)
class TableTruth:
    """Reads the rows of `segments` of each image."""

    task: Literal["panoptic", "instance", "semantic"]

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        segments = (
            _model_segments(row, storage=storage)
            if row["revision"] is None
            else _reviewed_segments(row, labels=labels, storage=storage)
        )
        size = {"height": row["height"], "width": row["width"]}
        ids = np.zeros((row["height"], row["width"]), np.min_scalar_type(len(labels.names) + 1))
        if len(segments) > np.iinfo(ids.dtype).max:
            ids = ids.astype(np.int32)
        found = []
        for number, (label_id, rle) in enumerate(segments, start=1):
            # In a semantic target the id is that of the label, as in targets of label maps.
            segment_id = label_id + 1 if self.task == "semantic" else number
            ids[decode_rle(rle, **size)] = segment_id
            found.append(TrueSegment(id=segment_id, label_id=label_id))
        return Target(ids=ids, segments=tuple(found))


def _model_segments(row: Mapping[str, Any], *, storage: Storage) -> list[tuple[int, str]]:
    """Reads label_id and run lengths of an image's rows, by segment_id."""
    unit = DataLocation(**row["unit"])
    with storage.open(unit.uri, etag=unit.etag, size=unit.size) as file:
        segments = read_parquet(
            file,
            columns=["segment_id", "label_id", "rle"],
            rows=(ds.field("image_id") == row["image_id"]) & rows_of_unit(unit.uri, row["unit_id"]),
        ).to_pylist()
    segments.sort(key=lambda segment: segment["segment_id"])
    return [(segment["label_id"], segment["rle"]) for segment in segments]


def _reviewed_segments(
    row: Mapping[str, Any], *, labels: Labels, storage: Storage
) -> list[tuple[int, str]]:
    """Reads label_id and run lengths of a revision; its labels are matched by name."""
    place = DataLocation(**row["unit"])
    with storage.open(place.uri, etag=place.etag, size=place.size) as file:
        is_wanted = ds.field("image_id") == row["image_id"]
        is_wanted &= ds.field("revision") == row["revision"]
        (found,) = read_parquet(file, columns=["segments"], rows=is_wanted).to_pylist()
    return [(labels.names.index(each["label"]), each["rle"]) for each in found["segments"]]


def open_table(
    settings: DatasetSettings,
    *,
    storage: Storage,
    reading: ReadSettings,
    revisions: Revisions | None,
) -> LabelledImages:
    """Opens the images of a table whose latest row has no error, or those with a review.

    Args:
        revisions: as in `open_labelled`.

    Raises:
        NoTable: there is no table.
        LabelError: a photograph is not what it was when it was segmented, or there is no image to
            take.
    """
    settings.refuse("images", "maps", because="segment tables")
    refuse_label_map_settings(settings, because="segment tables")
    store = TableStore(settings.dataset, storage)
    spec = store.existing_spec()
    rows = latest_images(store.uri, storage=storage).read_all().to_pylist()
    units = store.segment_files()
    rows = [row for row in rows if row["status"] == "ok"]
    rows.sort(key=lambda row: (row["unit_id"], row["position"]))
    if not rows:
        raise LabelError(f"{store.uri} holds no image without error")
    chosen = choose_reviewed(
        [row["image_id"] for row in rows],
        table=store,
        reviewed=settings.reviewed,
        reviews=settings.reviews,
        revisions=revisions,
    )
    rows = [row for row in rows if row["image_id"] in chosen.places]
    locations = _photo_locations(rows, storage=storage, reading=reading)
    named = [
        {
            "image_id": row["image_id"],
            "image": asdict(locations[row["image_id"]]),
            "height": row["height"],
            "width": row["width"],
            **_segments_place(row, chosen=chosen, units=units),
        }
        for row in rows
    ]
    fused = frozenset(spec["label_ids_to_fuse"] or ())
    things = frozenset(range(len(spec["labels"]))) - fused
    return LabelledImages(
        uri=store.uri,
        kind="segment_table",
        truths=_TRUTHS[spec["task"]],
        labels=Labels(
            names=tuple(spec["labels"]),
            things=frozenset() if spec["task"] == "semantic" else things,
        ),
        rows=pa.Table.from_pylist(named, schema=_SCHEMA),
        truth=TableTruth(task=spec["task"]),
        storage=storage,
        reading=reading,
        notes=chosen.notes,
    )


def _segments_place(
    row: Mapping[str, Any], *, chosen: ChosenImages, units: Mapping[str, File]
) -> dict[str, Any]:
    """Returns the columns that say where the segments of an image are."""
    review = chosen.places[row["image_id"]]
    file = units[row["unit_id"]] if review is None else review.file
    return {
        "unit": asdict(DataLocation.of_file(file)),
        "unit_id": row["unit_id"],
        "revision": None if review is None else review.revision,
    }


def _photo_locations(
    rows: list[dict[str, Any]], *, storage: Storage, reading: ReadSettings
) -> dict[str, DataLocation]:
    """Returns the location of each photograph by image_id; lists each archive once."""
    by_uri: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_uri[row["uri"]].append(row)
    locations: dict[str, DataLocation] = {}
    archives = []
    for uri, those in by_uri.items():
        file = storage.file(uri)
        stale = [row for row in those if file is None or row["etag"] != file.etag]
        if file is None or stale:
            state = "is gone" if file is None else "has changed"
            raise LabelError(
                f"image {stale[0]['image_id']}: {uri} {state} since it was segmented; put the "
                "file back, or segment it again"
            )
        if kind_of(uri) == "tar":
            archives.append(file)
        elif kind_of(uri) == "parquet":
            locations |= _row_locations(file, those, storage=storage, reading=reading)
        else:
            locations[those[0]["image_id"]] = DataLocation.of_file(file)
    for file, found in shard_members(archives, storage=storage):
        members = {member.name: member for member in found}
        for row in by_uri[file.uri]:
            locations[row["image_id"]] = member_location(file, members[row["member"]])
    return locations


def _row_locations(
    file: File, rows: list[dict[str, Any]], *, storage: Storage, reading: ReadSettings
) -> dict[str, DataLocation]:
    with storage.open(file.uri, etag=file.etag, size=file.size) as data:
        schema = parquet_schema(data)
    column = None if schema is None else bytes_column(schema, settings=reading)
    if column is None:
        raise LabelError(f"{file.uri} has no column of photographs; name it by --image_column")
    ending = file.uri.rpartition("/")[2]
    keys = parquet_keys(file, column=reading.key_column, storage=storage)
    row_of = {key: row for row, key in enumerate(keys) if key is not None}
    locations = {}
    for row in rows:
        number = row["image_id"].rpartition(f"{ending}/")[2]
        at = row_of.get(row["image_id"], int(number) if number.isdecimal() else None)
        if at is None:
            raise LabelError(
                f"image {row['image_id']} is in no row of {file.uri}; see --key_column"
            )
        location = DataLocation.of_file(file)
        locations[row["image_id"]] = dataclasses.replace(location, row=at, column=column)
    return locations
