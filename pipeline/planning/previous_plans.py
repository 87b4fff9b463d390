"""Reads the units of all plans in force: their sources, and which are done or have a tombstone.

Single files, of which there may be millions, go into a database on disk; archives and Parquet
files, which are few and may be cut, stay in memory. `listing_diff.py` compares a listing with them.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.sources import Source
from pipeline.runtime.threads import map_ahead
from pipeline.table.plans import read_plan, read_units, report_file, runs_in_order
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.store import TableStore
from pipeline.table.units import Unit, given_names, sources_of

_THREADS = 16

_PLANNED_FILES = (
    "CREATE TABLE planned_files (uri TEXT, etag TEXT, unit INTEGER, again INTEGER DEFAULT 0)"
)


class PreviousPlans:
    """The units of the table's plans, numbered in the order in which they were first planned."""

    def __init__(self, table: TableStore, *, database: ScratchDatabase) -> None:
        # Plans are read before the done units: each unit that is done then is in one of these
        # plans, or in a plan that takes our number.
        self._table, self._runs = table, runs_in_order(table)
        self._database = database
        database.run(_PLANNED_FILES)
        self.count = len(self._runs)
        self.archives: dict[int, list[Source]] = defaultdict(list)
        """By unit, the sources that are no single files."""
        self.roots: set[str] = set()
        """The folders above the sources of all plans, which their names are relative to."""
        self.has_given_names = False
        """True if a manifest names a source differently from its location."""
        self._numbers: dict[str, int] = {}
        plan_numbers: list[int] = []
        for plan_number, run_id in enumerate(self._runs):
            for rows in read_plan(table, run_id):
                self._take(rows, plan_number=plan_number, plan_numbers=plan_numbers)
        self.unit_ids = list(self._numbers)
        self.plan_numbers = np.array(plan_numbers, np.int64)
        units = self._table.units()
        self.is_done = self._among(units.own | units.compacted.keys())
        self.has_tombstone = self._among(units.tombstones)

    @property
    def parquet_files(self) -> set[tuple[str, str]]:
        """Returns uri and etag of the Parquet files that a unit holds."""
        return {(s.uri, s.etag) for s in self._all_archives() if s.kind == "parquet"}

    @property
    def slices(self) -> dict[tuple[str, str, int], Source]:
        """Returns archives and parts of them by uri, etag and start."""
        return {(s.uri, s.etag, s.start): s for s in self._all_archives() if not s.again}

    def has_labelled(self, place: str) -> bool:
        """Returns True if a plan has a source at or below a location, or a run labelled it."""
        folder = f"{place.rstrip('/')}/"
        for run_id in reversed(self._runs):
            for rows in read_plan(self._table, run_id, columns=["uri", "etag"]):
                is_below = pc.or_(pc.starts_with(rows["uri"], folder), pc.equal(rows["uri"], place))
                if pc.any(pc.and_(is_below, pc.not_equal(rows["etag"], ""))).as_py():
                    return True
            if self._labelled_corpus(run_id) == place:
                return True
        return False

    def rows(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Reads columns of the plans again."""
        for run_id in self._runs:
            yield from read_plan(self._table, run_id, columns=columns)

    def units(self, numbers: Collection[int]) -> Iterator[Unit]:
        """Reads some units from their plans again, in their order."""
        by_plan: dict[int, set[str]] = defaultdict(set)
        for number in numbers:
            by_plan[int(self.plan_numbers[number])].add(self.unit_ids[number])
        for plan_number, unit_ids in sorted(by_plan.items()):
            run_id = self._runs[plan_number]
            yield from read_units(self._table, run_id, only=unit_ids, plan_number=plan_number)

    def insert_units(self) -> None:
        """Writes the present state of the units into the database."""
        state = pa.table(
            {
                "unit": pa.array(range(len(self.unit_ids)), pa.int32()),
                "plan": self.plan_numbers,
                "is_done": self.is_done,
                "has_tombstone": self.has_tombstone,
            }
        )
        with self._database.view("unit_state", state):
            self._database.run("CREATE OR REPLACE TABLE units AS SELECT * FROM unit_state")

    def give_up(self, numbers: Collection[int], *, writes_tombstones: bool) -> None:
        """Marks undone units as given up; those that are done by now are marked as done.

        `writes_tombstones` prevents for good that any of them is done later.
        """
        ids = [self.unit_ids[number] for number in numbers]
        if writes_tombstones:
            is_undone = list(map_ahead(self._table.write_tombstone, ids, num_threads=_THREADS))
        else:
            done = self._table.done_units()
            is_undone = [unit_id not in done for unit_id in ids]
        for number, undone in zip(numbers, is_undone, strict=True):
            self.has_tombstone[number], self.is_done[number] = undone, not undone

    def number_of(self, unit_id: str) -> int | None:
        """Returns the number of a unit; None if no plan has it."""
        return self._numbers.get(unit_id)

    def _labelled_corpus(self, run_id: str) -> str | None:
        """Returns the corpus of a run that labelled images, from its report; None otherwise."""
        try:
            report = json.loads(self._table.storage.read(report_file(self._table, run_id)))
            if report["images"] > report["images_in_error"]:
                return self._table.storage.absolute(report["corpus"])
        except (FileNotFoundError, ValueError, KeyError):
            pass
        return None

    def _among(self, unit_ids: Set[str]) -> npt.NDArray[np.bool_]:
        return np.array([unit_id in unit_ids for unit_id in self.unit_ids], bool)

    def _all_archives(self) -> Iterator[Source]:
        return (source for sources in self.archives.values() for source in sources)

    def _take(self, rows: pa.RecordBatch, *, plan_number: int, plan_numbers: list[int]) -> None:
        """Adds a plan's rows, except those of units that an earlier plan has."""

        def number_of(unit_id: str) -> int:
            number = self._numbers.setdefault(unit_id, len(self._numbers))
            if number == len(plan_numbers):
                plan_numbers.append(plan_number)
            return number if plan_numbers[number] == plan_number else -1

        unit_ids = rows["unit_id"].dictionary_encode()
        numbers = np.array([number_of(i) for i in unit_ids.dictionary.to_pylist()], np.int32)
        units = numbers[unit_ids.indices.to_numpy()]
        is_file = pc.equal(rows["kind"], "file").to_numpy(zero_copy_only=False)
        files = (units >= 0) & is_file
        columns = [name for name in ("uri", "etag", "again") if name in rows.schema.names]
        of_files = pa.Table.from_batches([rows]).select(columns).filter(pa.array(files))
        self._database.insert(
            "planned_files", of_files.append_column("unit", pa.array(units[files]))
        )
        self._look_at_names(rows)
        archives = (units >= 0) & ~is_file
        sources = sources_of(rows.filter(pa.array(archives)))
        for number, source in zip(units[archives].tolist(), sources, strict=True):
            self.archives[number].append(source)

    def _look_at_names(self, rows: pa.RecordBatch) -> None:
        if not len(rows) or self.has_given_names:
            return
        uri, name = rows["uri"][0].as_py(), rows["name"][0].as_py()
        root = uri.removesuffix(f"/{name}")
        if uri != name:
            self.roots.add(root)
        self.has_given_names = bool(pc.any(given_names(rows, root=root)).as_py())
