"""Segment tables: their layout and columns, what made them, and how to open them.

`labelling/commit.py` writes the files; everyone else reads them: with the functions here, or with
any tool that reads Parquet.
"""

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from maskformer import decode_rle
from pipeline.corpora.parquet import end_after_readers
from pipeline.storage import File, Storage, join
from pipeline.storage.locations import check_folder_location
from pipeline.table.compacted import FOLDER as COMPACTED
from pipeline.table.compacted import CompactedFile, compacted_units, read_pointer
from pipeline.table.tombstones import give_up, given_up_units, is_given_up

__all__ = ["IMAGES", "SEGMENTS", "TableSpec", "TableStore", "decode_rle", "images", "segments"]

SCHEMA_VERSION = 1

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
    ]
)
"""One row per segment; `rle` is COCO's compressed counts of the image's full size."""

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


def segments(table: str, *, storage: Storage | None = None) -> ds.Dataset:
    """The segments of all units that are done, as a pyarrow dataset with the columns `SEGMENTS`.

    `storage` says how to reach object storage where the AWS variables do not.
    """
    return TableStore(table, storage or Storage().with_environment()).dataset("segments", SEGMENTS)


def images(table: str, *, storage: Storage | None = None) -> ds.Dataset:
    """The images of all units that are done, as a pyarrow dataset with the columns `IMAGES`."""
    return TableStore(table, storage or Storage().with_environment()).dataset("images", IMAGES)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What made a table: two runs with the same spec make the same rows of the same image."""

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

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any field."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def of(cls, there: Mapping[str, Any]) -> "TableSpec":
        """What a table's `_table.json` says."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in there.items()
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"_table.json is of another version: {error}") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def file_metadata(self) -> dict[str, str]:
        """What each Parquet file of the table says of what made it."""
        return {
            "schema_version": str(self.schema_version),
            "model_fingerprint": self.model_fingerprint,
            "table_fingerprint": self.fingerprint,
            "labels": json.dumps(self.labels),
        }

    def difference(self, other: dict[str, Any]) -> str:
        """The fields in which a table's `_table.json` differs, as text; empty where none does."""
        mine = json.loads(self.to_json())
        return "; ".join(
            f"{name}: the table has {_brief(other.get(name))}, this run {_brief(mine.get(name))}"
            for name in sorted({*mine, *other})
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

    def check(self, spec: TableSpec) -> None:
        """Raises ValueError where the table was made by other settings, showing the difference."""
        there = self.spec()
        if there is not None and (difference := spec.difference(there)):
            raise ValueError(
                f"{self.uri} was made with other settings: {difference}; "
                "use the same settings or another --table"
            )

    def create(self, spec: TableSpec) -> None:
        """Writes `_table.json` where there is none, and checks the one that is there then."""
        self.storage.write_new(self.file("_table.json"), spec.to_json().encode())
        self.check(spec)

    def done_units(self) -> set[str]:
        """Ids of the units that are committed, by a listing and what is compacted."""
        units = self.units()
        return {*units.own, *units.compacted}

    def units(self) -> "DoneUnits":
        """The units that are committed, and where their rows are read; each once at any moment."""
        listed = self.unit_files("images").keys()
        given_up = self.given_up(listed)
        # After the listing: a unit whose own files were gone by then is in this pointer.
        pointer = read_pointer(self.uri, storage=self.storage)
        compacted = compacted_units(self.uri, pointer, storage=self.storage)
        return DoneUnits(
            own=frozenset(listed - compacted.keys() - given_up),
            files=pointer.files,
            compacted=compacted,
            given_up=given_up,
        )

    def unit_files(self, part: Literal["segments", "images"]) -> dict[str, File]:
        """The units' own files by unit_id, whether the units are done or not, by one listing.

        What other programs keep in folders below, as Delta its log and Iceberg its metadata, is
        none of them, nor is what begins with `_` or a dot.
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

    def given_up(self, listed: Set[str]) -> frozenset[str]:
        """The units that are given up, some of which may have been `listed` in `images` before."""
        return given_up_units(
            self.uri, listed=listed, images=self.file("images"), storage=self.storage
        )

    def is_done(self, unit_id: str) -> bool:
        """Whether a unit has a file of its own that makes it done, by one look."""
        place = self.file("images", f"{unit_id}.parquet")
        there = self.storage.file(place) is not None
        return there and not is_given_up(place, storage=self.storage)

    def finish(self, unit_id: str, images: bytes) -> bool:
        """Makes a unit done by the file of its images; False where it is given up."""
        place = self.file("images", f"{unit_id}.parquet")
        # A unit that is done has these rows, whoever wrote them.
        is_mine = self.storage.write_new(place, images)
        return is_mine or not is_given_up(place, storage=self.storage)

    def give_up(self, unit_id: str) -> bool:
        """Sees to it that a unit is never done; False where it is done already."""
        place = self.file("images", f"{unit_id}.parquet")
        return give_up(unit_id, table=self.uri, images=place, schema=IMAGES, storage=self.storage)

    def segment_files(self) -> dict[str, File]:
        """The file with the segments of each unit that is done: its own, else a compacted one.

        `rows_of_unit` says which rows of the file are the unit's.
        """
        own = self.unit_files("segments")
        done = self.units()
        places = [self.storage.file(self.file(file.segments)) for file in done.files]
        found: dict[str, File | None] = {
            unit: own.get(unit, places[number]) for unit, number in done.compacted.items()
        }
        found |= {unit: own.get(unit) for unit in done.own}
        return {unit: file for unit, file in found.items() if file is not None}

    def dataset(self, part: Literal["segments", "images"], schema: pa.Schema) -> ds.Dataset:
        if self.spec() is None:
            raise FileNotFoundError(f"{self.uri} is no segment table: it has no _table.json")
        fs, root = self.storage.filesystem(self.uri)
        files = [join(root, name) for name in self.units().file_names(part)]
        if not files:
            return ds.dataset(schema.empty_table())
        if "file" not in fs.protocol:  # Arrow reads a disk by itself
            end_after_readers()
        return ds.dataset(files, schema=schema, format="parquet", filesystem=fs)


@dataclass(frozen=True, kw_only=True)
class DoneUnits:
    """The units that are committed, and the files to read them from."""

    own: frozenset[str]
    """Units to read from files of their own."""
    files: tuple[CompactedFile, ...]
    compacted: Mapping[str, int]
    """Units to read from compacted files, and the number of the file that each is in."""
    given_up: frozenset[str]
    """Units that will never be done; what was left of them is in others."""

    def file_names(self, part: Literal["segments", "images"]) -> list[str]:
        """The files with all rows, each once, relative to the table."""
        own = [join(part, f"{unit}.parquet") for unit in sorted(self.own)]
        return [*(getattr(file, part) for file in self.files), *own]

    def file_name(self, unit_id: str, part: Literal["segments", "images"]) -> str:
        """The file with the rows of one unit, and of others where it is compacted."""
        if unit_id in self.compacted:
            return getattr(self.files[self.compacted[unit_id]], part)
        return join(part, f"{unit_id}.parquet")


def rows_of_unit(file: str, unit_id: str) -> pc.Expression:
    """Which rows of a file of `segments` are of a unit: in its own file, all are."""
    is_compacted = f"/{COMPACTED}/" in file
    return ds.field("unit_id") == unit_id if is_compacted else ds.scalar(True)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How all files of a table are written: statistics on the scalars, and not on run lengths."""
    scalars = [f.name for f in schema if f.name != "rle" and not pa.types.is_nested(f.type)]
    return {
        "compression": "zstd",
        "use_dictionary": [n for n in scalars if n not in ("position", "score", "area")],
        "write_statistics": scalars,
    }


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
