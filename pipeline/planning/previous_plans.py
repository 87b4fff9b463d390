"""Earlier plans: what the units of all plans in force hold, and which are done or given up.

Rows of single files, of which there may be millions, go to disk as digests; archives and Parquet
files, which are few and may be cut, stay as they are. `listing_diff.py` lays a listing beside them.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.sources import Source
from pipeline.runtime.threads import map_ahead
from pipeline.table.partitions import KEY, Partitions, Records, keys, marks
from pipeline.table.plans import read_plan, read_units, report_file, runs_in_order
from pipeline.table.store import TableStore
from pipeline.table.units import Unit, given_names, sources_of

_THREADS = 16

KNOWN = np.dtype([KEY, ("etag", "i8"), ("unit", "i4"), ("again", "i4")])
"""A file in a unit; `unit` is the unit's place in the order in which they were first planned."""


class PreviousPlans:
    """The units of the table's plans, numbered in the order in which they were first planned."""

    def __init__(self, table: TableStore, *, folder: Path) -> None:
        # Plans first: a unit that is done by the second look is in a plan of the first, or in one
        # that takes our number.
        self._table, self._runs = table, runs_in_order(table)
        self.count = len(self._runs)
        self.files = Partitions(folder / "known", dtype=KNOWN)
        self.archives: dict[int, list[Source]] = defaultdict(list)
        """By unit: what is no single file."""
        self.roots: set[str] = set()
        """The folders above the sources of all plans, which their names are relative to."""
        self.has_given_names = False
        """Whether a source has another name than its location gives it."""
        self._numbers: dict[str, int] = {}
        plan_numbers: list[int] = []
        for plan_number, run_id in enumerate(self._runs):
            for rows in read_plan(table, run_id):
                self._take(rows, plan_number=plan_number, plan_numbers=plan_numbers)
        self.unit_ids = list(self._numbers)
        self.plan_numbers = np.array(plan_numbers, np.int64)
        units = self._table.units()
        self.is_done = self._among(units.own | units.compacted.keys())
        self.is_given_up = self._among(units.given_up)

    @property
    def parquet_files(self) -> set[tuple[str, str]]:
        """uri and etag of those that a unit holds."""
        return {(s.uri, s.etag) for s in self._all_archives() if s.kind == "parquet"}

    @property
    def slices(self) -> dict[tuple[str, str, int], Source]:
        """Archives and parts of them by uri, etag and start."""
        return {(s.uri, s.etag, s.start): s for s in self._all_archives() if not s.again}

    def has_labelled(self, place: str) -> bool:
        """Whether a plan has a source at or below a location, or a run labelled that location."""
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
        """Columns of the plans, read from them again."""
        for run_id in self._runs:
            yield from read_plan(self._table, run_id, columns=columns)

    def units(self, numbers: Collection[int]) -> Iterator[Unit]:
        """Some units whole, in their order, read from their plans again."""
        by_plan: dict[int, set[str]] = defaultdict(set)
        for number in numbers:
            by_plan[int(self.plan_numbers[number])].add(self.unit_ids[number])
        for plan_number, unit_ids in sorted(by_plan.items()):
            run_id = self._runs[plan_number]
            yield from read_units(self._table, run_id, only=unit_ids, plan_number=plan_number)

    def give_up(self, numbers: Collection[int], *, for_good: bool) -> None:
        """Takes these undone units as given up, but for those that are done by now.

        `for_good` sees to it in the table, that none of them is done later.
        """
        ids = [self.unit_ids[number] for number in numbers]
        if for_good:
            gives_up = list(map_ahead(self._table.give_up, ids, num_threads=_THREADS))
        else:
            done = self._table.done_units()
            gives_up = [unit_id not in done for unit_id in ids]
        for number, never in zip(numbers, gives_up, strict=True):
            self.is_given_up[number], self.is_done[number] = never, not never

    def number_of(self, unit_id: str) -> int | None:
        """None where no plan has the unit."""
        return self._numbers.get(unit_id)

    def _labelled_corpus(self, run_id: str) -> str | None:
        """Where a run found good images, as its report says; None where it says of none."""
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
        """Adds a plan's rows, but for those of units that a plan before it had."""

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
        of_files = rows.filter(pa.array(files))
        self.files.add(_records(of_files, units=units[files]))
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


def _records(rows: pa.RecordBatch, *, units: npt.NDArray[np.int32]) -> Records:
    records = np.empty(len(rows), KNOWN)
    records["key"] = keys(rows["uri"].to_pylist())
    records["etag"] = marks(rows["etag"].to_pylist())
    records["unit"] = units
    has_again = "again" in rows.schema.names
    records["again"] = rows["again"].to_numpy() if has_again else 0
    return records
