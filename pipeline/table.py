"""Segment tables: their layout and columns, what made them, and how to open them.

`labelling/commit.py` writes the files; everyone else reads them: with the functions here, or with
any tool that reads Parquet.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as ds

from maskformer import decode_rle
from pipeline.storage import Storage, join

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

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

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
        """Ids of the units that are committed, by one listing."""
        names = (file.uri.rsplit("/", 1)[1] for file in self.storage.files(self.file("images")))
        return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}

    def dataset(self, part: Literal["segments", "images"], schema: pa.Schema) -> ds.Dataset:
        if self.spec() is None:
            raise FileNotFoundError(f"{self.uri} is no segment table: it has no _table.json")
        fs, root = self.storage.filesystem(self.file(part))
        files = [join(root, f"{unit}.parquet") for unit in sorted(self.done_units())]
        if not files:
            return ds.dataset(schema.empty_table())
        return ds.dataset(files, schema=schema, format="parquet", filesystem=fs)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
