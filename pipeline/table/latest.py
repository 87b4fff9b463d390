"""Reads the latest rows of each image: those of the last plan that has it.

An image that changed, or that was tried again, has rows in several units, all of which `store.py`
reads. An image that is gone from the corpus keeps its rows. The same in SQL, over plain files:

    SELECT i.* FROM 'TABLE/images/*.parquet' i JOIN (SELECT unit_id, max(plan_number) AS plan FROM
    'TABLE/_runs/*/plan.parquet' GROUP BY unit_id) USING (unit_id)
    QUALIFY plan = max(plan) OVER (PARTITION BY image_id)

(Plans that never came into force, as a crash may leave one, do no harm: a unit in them has the
number of the plan that it came with, so the greatest number of a unit is the right one.)
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.parquet import read_parquet
from pipeline.storage import Storage
from pipeline.table.plans import plan_numbers
from pipeline.table.scratch import scratch_database
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, rows_of_unit

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True, kw_only=True)
class Generations:
    """The outdated rows of a table at one moment."""

    units: frozenset[str]
    """The units that were done and have rows."""
    old: Mapping[str, frozenset[str]]
    """By unit, the images whose rows in it are not the latest."""

    def is_latest(self, image_ids: pa.Array, unit_ids: pa.Array) -> npt.NDArray[np.bool_]:
        """Returns True for the latest rows; False for those of units that were done later."""
        units = unit_ids.dictionary_encode()
        of_batch = units.dictionary.to_pylist()
        is_known = np.array([unit in self.units for unit in of_batch], bool)
        has_old = np.array([unit in self.old for unit in of_batch], bool)
        number = units.indices.to_numpy()
        is_latest = is_known[number]
        for row in np.flatnonzero(has_old[number]).tolist():
            is_latest[row] &= image_ids[row].as_py() not in self.old[of_batch[number[row]]]
        return is_latest


def latest_images(
    table: str, *, columns: Sequence[str] | None = None, storage: Storage | None = None
) -> pa.RecordBatchReader:
    """Reads the latest row of each image in batches; `read_all()` makes one table of them."""
    return _read_latest("images", IMAGES, table, columns=columns, storage=storage)


def latest_segments(
    table: str, *, columns: Sequence[str] | None = None, storage: Storage | None = None
) -> pa.RecordBatchReader:
    """Reads the segments that belong to the latest row of each image."""
    return _read_latest("segments", SEGMENTS, table, columns=columns, storage=storage)


def newest(rows: Iterable[dict[str, Any]], *, table: TableStore) -> list[dict[str, Any]]:
    """Keeps the latest of some rows of `images` for each image, in the order of their plans."""
    numbers = plan_numbers(table)
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (numbers.get(row["unit_id"], -1), row["unit_id"])):
        found[row["image_id"]] = row
    return [*found.values()]


def rows_of_images(
    table: TableStore, image_ids: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Reads the latest rows of some images, and their segments.

    Reads the identifiers of all images, but segments only in the units that hold these images.
    """
    is_chosen = pc.field("image_id").isin(pa.array(image_ids, pa.string()))
    every = table.dataset("images", IMAGES).to_table(filter=is_chosen)
    rows = newest(every.to_pylist(), table=table)
    of_unit: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_unit[row["unit_id"]].append(row["image_id"])
    files = table.segment_files() if rows else {}
    found: list[dict[str, Any]] = []
    for unit_id, ids in of_unit.items():
        file = files[unit_id]
        is_of_these = pc.field("image_id").isin(pa.array(ids, pa.string()))
        is_of_these &= rows_of_unit(file.uri, unit_id)
        with table.storage.open(file.uri, etag=file.etag, size=file.size) as data:
            read = read_parquet(data, rows=is_of_these)
        found += completed(read, SEGMENTS).to_pylist()
    return rows, found


def generations(table: TableStore) -> Generations:
    """Finds the rows of images that a later plan has too; only those are kept in memory."""
    numbers = plan_numbers(table)
    dataset = table.dataset("images", IMAGES)
    units: set[str] = set()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in dataset.to_batches(columns=_IDS.names):
            units.update(batch["unit_id"].unique().to_pylist())
            yield batch

    rows = pa.RecordBatchReader.from_batches(_IDS, batches())
    plans = pa.table({"unit_id": [*numbers], "plan": [*numbers.values()]}, schema=_PLANS)
    old: dict[str, set[str]] = defaultdict(set)
    with (
        scratch_database() as database,
        database.view("images", rows),
        database.view("plans", plans),
    ):
        for unit_id, image_id in database.rows(_OLD_ROWS):
            old[unit_id].add(image_id)
    return Generations(
        units=frozenset(units), old={unit: frozenset(ids) for unit, ids in old.items()}
    )


_READAHEAD = {"batch_size": 2**14, "batch_readahead": 4, "fragment_readahead": 1}
"""Run lengths are long: by default, two million rows of them may wait for their reader."""
_IDS = pa.schema([IMAGES.field("image_id"), IMAGES.field("unit_id")])
_PLANS = pa.schema([("unit_id", pa.string()), ("plan", pa.int64())])
# A unit that is in no plan is older than all others.
_OLD_ROWS = """
    SELECT unit_id, image_id FROM images LEFT JOIN plans USING (unit_id)
    QUALIFY coalesce(plan, -1) < max(coalesce(plan, -1)) OVER (PARTITION BY image_id)
"""


def completed(rows: _Rows, schema: pa.Schema) -> _Rows:
    """Returns the columns of a schema, of nulls where a file of an earlier schema lacks them."""
    there = set(rows.schema.names)
    columns = [
        rows[field.name] if field.name in there else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return type(rows).from_arrays(columns, schema=schema)


def _read_latest(
    part: Literal["images", "segments"],
    schema: pa.Schema,
    uri: str,
    *,
    columns: Sequence[str] | None,
    storage: Storage | None,
) -> pa.RecordBatchReader:
    table = TableStore(uri, storage or Storage().with_environment())
    now = generations(table)
    dataset = table.dataset(part, schema)
    wanted = pa.schema([schema.field(name) for name in columns or schema.names])
    return pa.RecordBatchReader.from_batches(wanted, _rows(dataset, now, wanted=wanted))


def _rows(
    dataset: "ds.Dataset", now: Generations, *, wanted: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for fragment in dataset.get_fragments():
        # A unit's own file of segments is named after it; a compacted file has a column of units.
        has_units = "unit_id" in fragment.physical_schema.names
        needed = {*wanted.names, "image_id", *(["unit_id"] if has_units else [])}
        needed &= {*fragment.physical_schema.names}
        for batch in fragment.to_batches(columns=sorted(needed), **_READAHEAD):
            own = pa.repeat(Path(fragment.path).stem, len(batch))
            units = batch["unit_id"] if has_units else own
            latest = batch.filter(pa.array(now.is_latest(batch["image_id"], units)))
            yield completed(latest, wanted)
