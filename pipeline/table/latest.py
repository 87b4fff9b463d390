"""The latest rows: of each image those of the last plan that has it, and no older ones.

An image that changed, or that was tried again, has rows in several units; `store.py` gives them
all. An image that is gone from the corpus keeps its rows. The same in SQL, over plain files:

    SELECT i.* FROM 'TABLE/images/*.parquet' i JOIN (SELECT unit_id, max(plan_number) AS plan FROM
    'TABLE/_runs/*/plan.parquet' GROUP BY unit_id) USING (unit_id)
    QUALIFY plan = max(plan) OVER (PARTITION BY image_id)

(A unit keeps the number of the plan it came with, so that plans which never came into force, as a
crash may leave one, say nothing else: the greatest number of a unit is the right one.)
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.corpora.parquet import read_parquet
from pipeline.storage import Storage
from pipeline.table.partitions import KEY, Partitions, grouped, keys
from pipeline.table.plans import plan_numbers
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, rows_of_unit

_ROWS = np.dtype([KEY, ("unit", "i4")])


@dataclass(frozen=True, kw_only=True)
class Generations:
    """What is old in a table at one moment."""

    units: frozenset[str]
    """All that were done."""
    old: Mapping[str, frozenset[str]]
    """By unit the images whose rows in it are not the latest."""

    def is_latest(self, image_ids: pa.Array, unit_ids: pa.Array) -> npt.NDArray[np.bool_]:
        """By row; what was done later is left out, since what it made old is not."""
        units = unit_ids.dictionary_encode()
        of_batch = units.dictionary.to_pylist()
        is_known = np.array([unit in self.units for unit in of_batch], bool)
        has_old = np.array([unit in self.old for unit in of_batch], bool)
        number = units.indices.to_numpy()
        is_latest = is_known[number]
        for row in np.flatnonzero(has_old[number]).tolist():
            is_latest[row] &= image_ids[row].as_py() not in self.old[of_batch[number[row]]]
        return is_latest


def images(
    table: str, *, columns: Sequence[str] | None = None, storage: Storage | None = None
) -> pa.RecordBatchReader:
    """The latest row of each image, as they are read; `read_all()` makes one table of them."""
    return _latest("images", IMAGES, table, columns=columns, storage=storage)


def segments(
    table: str, *, columns: Sequence[str] | None = None, storage: Storage | None = None
) -> pa.RecordBatchReader:
    """The segments of each image that go with its latest row."""
    return _latest("segments", SEGMENTS, table, columns=columns, storage=storage)


def newest(rows: Iterable[dict[str, Any]], *, table: TableStore) -> list[dict[str, Any]]:
    """Of some rows of `images` the latest of each image, in the order of their plans."""
    numbers = plan_numbers(table)
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (numbers.get(row["unit_id"], -1), row["unit_id"])):
        found[row["image_id"]] = row
    return [*found.values()]


def chosen(
    table: TableStore, image_ids: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The latest rows of some images, and the segments that go with them.

    Reads the identifiers of all images, and of their segments those of the units that hold these.
    """
    is_chosen = ds.field("image_id").isin(pa.array(image_ids, pa.string()))
    every = table.dataset("images", IMAGES).to_table(filter=is_chosen)
    rows = newest(every.to_pylist(), table=table)
    of_unit: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_unit[row["unit_id"]].append(row["image_id"])
    files = table.segment_files() if rows else {}
    found: list[dict[str, Any]] = []
    for unit_id, ids in of_unit.items():
        file = files[unit_id]
        is_of_these = ds.field("image_id").isin(pa.array(ids, pa.string()))
        is_of_these &= rows_of_unit(file.uri, unit_id)
        with table.storage.open(file.uri, etag=file.etag, size=file.size) as data:
            read = read_parquet(data, columns=SEGMENTS.names, rows=is_of_these)
        found += read.to_pylist()
    return rows, found


def generations(table: TableStore) -> Generations:
    """Finds the images that a later plan has again; in memory are only those."""
    numbers = plan_numbers(table)
    dataset = table.dataset("images", IMAGES)
    unit_ids: list[str] = []
    place: dict[str, int] = {}
    old: dict[str, set[bytes]] = defaultdict(set)
    with tempfile.TemporaryDirectory(prefix="latest-") as folder:
        rows = Partitions(Path(folder, "rows"), dtype=_ROWS)
        for batch in dataset.to_batches(columns=["image_id", "unit_id"]):
            units = batch["unit_id"].dictionary_encode()
            for unit_id in units.dictionary.to_pylist():
                if unit_id not in place:
                    place[unit_id] = len(unit_ids)
                    unit_ids.append(unit_id)
            places = np.array([place[u] for u in units.dictionary.to_pylist()], np.int32)
            records = np.empty(len(batch), _ROWS)
            records["key"] = keys(batch["image_id"].to_pylist())
            records["unit"] = places[units.indices.to_numpy()]
            rows.add(records)
        # A unit of no plan, if there is one, is older than all.
        plan_of = np.array([numbers.get(unit_id, -1) for unit_id in unit_ids], np.int64)
        for records in rows:
            if len(records):
                (group,) = grouped(records)
                latest = np.full(int(group.max()) + 1, -1)
                np.maximum.at(latest, group, plan_of[records["unit"]])
                for record in records[plan_of[records["unit"]] < latest[group]]:
                    old[unit_ids[record["unit"]]].add(record["key"].tobytes())
    return Generations(units=frozenset(unit_ids), old=_named(old, dataset=dataset))


def _named(old: Mapping[str, set[bytes]], *, dataset: ds.Dataset) -> dict[str, frozenset[str]]:
    """The image ids behind keys, read from their units again."""
    named: dict[str, set[str]] = {unit: set() for unit in old}
    is_old = ds.field("unit_id").isin(pa.array([*old], pa.string()))
    for batch in dataset.to_batches(columns=["image_id", "unit_id"], filter=is_old):
        image_ids, unit_ids = batch["image_id"].to_pylist(), batch["unit_id"].to_pylist()
        for image_id, unit_id, key in zip(image_ids, unit_ids, keys(image_ids), strict=True):
            if key.tobytes() in old[unit_id]:
                named[unit_id].add(image_id)
    return {unit: frozenset(image_ids) for unit, image_ids in named.items()}


def _latest(
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


def _rows(dataset: ds.Dataset, now: Generations, *, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    for fragment in dataset.get_fragments():
        # A unit's own file of segments is named after it; where many are in one, each row says.
        has_units = "unit_id" in fragment.physical_schema.names
        needed = {*wanted.names, "image_id", *(["unit_id"] if has_units else [])}
        for batch in fragment.to_batches(columns=sorted(needed)):
            own = pa.repeat(Path(fragment.path).stem, len(batch))
            units = batch["unit_id"] if has_units else own
            latest = batch.filter(pa.array(now.is_latest(batch["image_id"], units)))
            yield pa.RecordBatch.from_arrays(latest.select(wanted.names).columns, schema=wanted)
