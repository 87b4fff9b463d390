"""Defines the layout and columns of segment tables, and opens them.

`labelling/commit.py` writes the files; all others read them, with the functions here or with any
tool that reads Parquet.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from maskformer import decode_rle
from pipeline.corpora.parquet import end_after_readers
from pipeline.storage import File, Storage, join
from pipeline.storage.locations import check_folder_location, describe_nothing_at
from pipeline.table.compacted import FOLDER as COMPACTED
from pipeline.table.compacted import CompactedFile, compacted_units, read_pointer
from pipeline.table.made_by import FIELD as MADE_BY
from pipeline.table.made_by import MadeBy
from pipeline.table.tombstones import is_tombstone, read_tombstones, write_tombstone

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["IMAGES", "SEGMENTS", "TableSpec", "TableStore", "decode_rle", "images", "segments"]


class NoTable(FileNotFoundError, ValueError):
    """There is no segment table at a location."""


SCHEMA_VERSION = 2
"""Of new tables. Tables of schema 1 lack the second labels, and are continued without them."""

_ENGINE: Final = "torch"
"""Of tables that name none."""

SEGMENTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("segment_id", pa.int32()),
        ("label_id", pa.int32()),
        ("label", pa.string()),
        ("is_thing", pa.bool_()),
        ("score", pa.float32()),
        ("area", pa.int64()),
        ("bbox_x", pa.int32()),
        ("bbox_y", pa.int32()),
        ("bbox_w", pa.int32()),
        ("bbox_h", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("rle", pa.string()),
        ("second_label_id", pa.int32()),
        ("second_label", pa.string()),
        ("second_score", pa.float32()),
    ]
)
"""One row per segment; `rle` is COCO's compressed counts of the image's full size.

The second label is the most probable one of the segment's query beside its own, with its score on
the same scale. Null where there is none: in semantic tables, where segments are no query's, of
models with one label, and in tables of schema 1."""

SECOND_LABEL = ("second_label_id", "second_label", "second_score")
"""The columns of `SEGMENTS` that files of schema 1 lack."""

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("etag", pa.string()),
        ("unit_id", pa.string()),
        ("position", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("num_segments", pa.int32()),
        ("coverage", pa.float32()),
        ("mean_score", pa.float32()),
    ]
)
"""One row per image, those that failed included."""


def segments(table: str, *, storage: Storage | None = None) -> "ds.Dataset":
    """Opens the segments of all done units, as a pyarrow dataset with the columns `SEGMENTS`.

    `storage` holds access to object storage where the AWS variables do not.
    """
    return TableStore(table, storage or Storage().with_environment()).dataset("segments", SEGMENTS)


def images(table: str, *, storage: Storage | None = None) -> "ds.Dataset":
    """Opens the images of all done units, as a pyarrow dataset with the columns `IMAGES`."""
    return TableStore(table, storage or Storage().with_environment()).dataset("images", IMAGES)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """Model and settings of a table: runs with the same spec give an image the same rows, up to
    the last bits of their arithmetic."""

    schema_version: int = SCHEMA_VERSION
    model_fingerprint: str
    """SHA-256 of the model's configuration, image processor and weights."""
    task: Literal["panoptic", "instance", "semantic"]
    threshold: float | None
    mask_threshold: float | None
    overlap_mask_area_threshold: float | None
    label_ids_to_fuse: tuple[int, ...] | None
    resize_rule: str
    precision: str
    decode: str
    labels: tuple[str, ...]
    """Names by label_id."""
    engine: Literal["torch", "onnx"] = _ENGINE
    """Library that computed the model; files of tables by torch do not name it. Rows of both have
    the same labels, scores within 0.001, and masks that differ by pixels at their edges; a query
    whose score is that close to a threshold may be in one table and not in the other."""
    made_by: MadeBy | None = field(default=None, compare=False)
    """The model's name, for people; another name of the same model makes the same rows."""

    @property
    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any field."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def segments_schema(self) -> pa.Schema:
        """Returns the columns of the table's own files of segments."""
        if self.schema_version > 1:
            return SEGMENTS
        return pa.schema([field for field in SEGMENTS if field.name not in SECOND_LABEL])

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "TableSpec":
        """Returns the spec that `_table.json` holds."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        fields[MADE_BY] = MadeBy.of(content.get(MADE_BY))
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"_table.json is of another version: {error}") from error

    def to_json(self) -> str:
        """Writes what rows depend on: the fields that are compared."""
        fields = {name: value for name, value in asdict(self).items() if name != MADE_BY}
        if self.engine == _ENGINE:  # files and units of tables from before have names without it
            del fields["engine"]
        return json.dumps(fields, indent=1, sort_keys=True)

    def to_table_json(self) -> str:
        """Writes the content of `_table.json`."""
        made_by = {} if self.made_by is None else {MADE_BY: asdict(self.made_by)}
        return json.dumps(json.loads(self.to_json()) | made_by, indent=1, sort_keys=True)

    @property
    def file_metadata(self) -> dict[str, str]:
        """Returns the key-value metadata of each Parquet file of the table."""
        return {
            "schema_version": str(self.schema_version),
            "model_fingerprint": self.model_fingerprint,
            "table_fingerprint": self.fingerprint,
            "labels": json.dumps(self.labels),
            **({} if self.made_by is None else {MADE_BY: self.made_by.to_json()}),
        }

    def difference(self, other: dict[str, Any]) -> str:
        """The fields in which a table's `_table.json` differs, as text; empty where none does."""
        mine = {"engine": _ENGINE} | json.loads(self.to_json())
        other = {"engine": _ENGINE} | other
        return "; ".join(
            f"{name}: the table has {_brief(other.get(name))}, this run {_brief(mine.get(name))}"
            for name in sorted({*mine, *other} - {MADE_BY})
            if mine.get(name) != other.get(name)
        )


class TableStore:
    """A table's place in storage: names of its files, and which units are done."""

    def __init__(self, uri: str, storage: Storage) -> None:
        check_folder_location(uri, setting="the table")
        self.uri = storage.absolute(uri)
        self.storage = storage

    def file(self, *names: str) -> str:
        return join(self.uri, *names)

    def spec(self) -> dict[str, Any] | None:
        """`_table.json`, None where there is no table yet."""
        try:
            return json.loads(self.storage.read(self.file("_table.json")))
        except FileNotFoundError:
            return None

    def existing_spec(self) -> dict[str, Any]:
        """Returns `_table.json`.

        Raises:
            NoTable: there is none; says what is there instead.
        """
        spec = self.spec()
        if spec is None:
            nothing = describe_nothing_at(self.uri, storage=self.storage)
            raise NoTable(f"{self.uri} is no segment table: {nothing or 'it has no _table.json'}")
        return spec

    def check(self, spec: TableSpec) -> None:
        """Raises ValueError with the difference if the table was made with other settings."""
        there = self.spec()
        if there is not None and (difference := spec.difference(there)):
            raise ValueError(
                f"{self.uri} was made with other settings: {difference}; "
                "use the same settings or another --table"
            )

    def create(self, spec: TableSpec) -> None:
        """Writes `_table.json` if there is none; checks the existing one otherwise."""
        self.storage.write_new(self.file("_table.json"), spec.to_table_json().encode())
        self.check(spec)

    def as_made(self, spec: TableSpec) -> TableSpec:
        """Returns a spec of this table with the model's name that the table was begun with.

        Files carry that name, so that their bytes do not depend on the run.
        """
        made_by = MadeBy.of((self.spec() or {}).get(MADE_BY))
        return dataclasses.replace(spec, made_by=made_by)

    def done_units(self) -> set[str]:
        """Returns the ids of all committed units, compacted or not."""
        units = self.units()
        return {*units.own, *units.compacted}

    def units(self) -> "DoneUnits":
        """Returns the committed units and the files to read them from, each unit once."""
        listed = self.unit_files("images").keys()
        tombstones = self.tombstones(listed)
        # Read after the listing, so that units whose own files were removed are in this pointer.
        pointer = read_pointer(self.uri, storage=self.storage)
        compacted = compacted_units(self.uri, pointer, storage=self.storage)
        return DoneUnits(
            own=frozenset(listed - compacted.keys() - tombstones),
            files=pointer.files,
            compacted=compacted,
            tombstones=tombstones,
        )

    def unit_files(self, part: Literal["segments", "images"]) -> dict[str, File]:
        """Lists the units' own files by unit_id, of units that are done or not.

        Leaves out subfolders, in which Delta and Iceberg keep their metadata, and names that begin
        with `_` or a dot.
        """
        folder = self.file(part) + "/"
        named = (
            (file.uri.removeprefix(folder), file) for file in self.storage.files(self.file(part))
        )
        return {
            name.removesuffix(".parquet"): file
            for name, file in named
            if name.endswith(".parquet") and "/" not in name and name[0] not in "_."
        }

    def tombstones(self, listed: Set[str]) -> frozenset[str]:
        """Returns the units with a tombstone; `listed` are units with a file in `images`."""
        return read_tombstones(
            self.uri, listed=listed, images=self.file("images"), storage=self.storage
        )

    def is_done(self, unit_id: str) -> bool:
        """Returns True if a unit has a file of its own that makes it done."""
        images = self.file("images", f"{unit_id}.parquet")
        exists = self.storage.file(images) is not None
        return exists and not is_tombstone(images, storage=self.storage)

    def finish(self, unit_id: str, images: bytes) -> bool:
        """Makes a unit done by writing the file of its images; False if it has a tombstone."""
        place = self.file("images", f"{unit_id}.parquet")
        # If another run wrote the file, it holds the same rows: those that `segments` decided.
        is_written = self.storage.write_new(place, images)
        return is_written or not is_tombstone(place, storage=self.storage)

    def write_tombstone(self, unit_id: str) -> bool:
        """Prevents a unit from ever being done; returns False if it is done already."""
        place = self.file("images", f"{unit_id}.parquet")
        return write_tombstone(
            unit_id, table=self.uri, images=place, schema=IMAGES, storage=self.storage
        )

    def segment_files(self) -> dict[str, File]:
        """Returns the file with the segments of each done unit: its own, else a compacted one.

        `rows_of_unit` selects the unit's rows in the file.
        """
        own = self.unit_files("segments")
        done = self.units()
        places = [self.storage.file(self.file(file.segments)) for file in done.files]
        found: dict[str, File | None] = {
            unit: own.get(unit, places[number]) for unit, number in done.compacted.items()
        }
        found |= {unit: own.get(unit) for unit in done.own}
        return {unit: file for unit, file in found.items() if file is not None}

    def dataset(self, part: Literal["segments", "images"], schema: pa.Schema) -> "ds.Dataset":
        """Opens one part of the table.

        Raises:
            NoTable: there is no table.
        """
        import pyarrow.dataset as ds  # here, since it imports pandas: 0.4 s of a process

        self.existing_spec()
        fs, root = self.storage.filesystem(self.uri)
        files = [join(root, name) for name in self.units().file_names(part)]
        if not files:
            return ds.dataset(schema.empty_table())
        if "file" not in fs.protocol:  # Arrow reads a disk by itself
            end_after_readers()
        return ds.dataset(files, schema=schema, format="parquet", filesystem=fs)


@dataclass(frozen=True, kw_only=True)
class DoneUnits:
    """The committed units of a table, and the files to read them from."""

    own: frozenset[str]
    """Units to read from their own files."""
    files: tuple[CompactedFile, ...]
    compacted: Mapping[str, int]
    """Units to read from compacted files, each with the index of its file."""
    tombstones: frozenset[str]
    """Units that will never be done; their remaining images are in other units."""

    def file_names(self, part: Literal["segments", "images"]) -> list[str]:
        """Returns the files that together hold all rows once, relative to the table."""
        own = [join(part, f"{unit}.parquet") for unit in sorted(self.own)]
        return [*(getattr(file, part) for file in self.files), *own]

    def file_name(self, unit_id: str, part: Literal["segments", "images"]) -> str:
        """Returns the file with the rows of a unit; a compacted file holds other units too."""
        if unit_id in self.compacted:
            return getattr(self.files[self.compacted[unit_id]], part)
        return join(part, f"{unit_id}.parquet")


def rows_of_unit(file: str, unit_id: str) -> pc.Expression:
    """Returns the filter for a unit's rows in a file of `segments`; its own file has no others."""
    is_compacted = f"/{COMPACTED}/" in file
    return pc.field("unit_id") == unit_id if is_compacted else pc.scalar(True)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Returns the options for writing a file of a table: no statistics on run lengths."""
    scalars = [f.name for f in schema if f.name != "rle" and not pa.types.is_nested(f.type)]
    return {
        "compression": "zstd",
        "use_dictionary": [n for n in scalars if n not in ("position", "score", "area")],
        "write_statistics": scalars,
    }


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
