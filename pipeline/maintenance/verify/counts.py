"""Counts over the whole table: images that are there twice, and what plans and reports say.

Of each image some bytes go to disk, to be compared a 64th at a time: 36 MB for a million images,
and where they are single files 60 MB more, for what units have of them and for what was planned. Of
each unit a few numbers stay in memory.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.maintenance.verify.findings import Findings
from pipeline.table.partitions import KEY, Partitions, Records, grouped, keys
from pipeline.table.plans import read_plan, runs_in_order
from pipeline.table.store import DoneUnits, TableStore

_IMAGE = np.dtype([KEY, ("source", "u8", (2,)), ("unit", "i4")])
_SOURCE = np.dtype([KEY, ("unit", "i4"), ("images", "i8"), ("is_cut", "?")])
_UNKNOWN = -1

_CUTTING_ERRORS = (
    "DamagedArchive", "DamagedParquet", "NoImageColumn", "NoKeyColumn", "NotFound",
    "TruncatedArchive",
)  # fmt: skip
"""Errors of a source that stand in place of the images after them."""

_ROUNDED_SHARE = 0.01
"""A run rounds the number of segments where it did images twice."""

_MOST_UNDONE_SOURCES = 10**6


@dataclass(kw_only=True)
class UnitCounts:
    """What one unit has in rows."""

    images: int = 0
    in_error: int = 0
    segments: int = 0

    def add(self, other: "UnitCounts") -> None:
        self.images += other.images
        self.in_error += other.in_error
        self.segments += other.segments


@dataclass(frozen=True, kw_only=True)
class UnitRecords:
    """What is kept of one unit's images to compare them with those of others."""

    unit_id: str
    counts: UnitCounts
    images: Records
    sources: Records


@dataclass(kw_only=True)
class PlanCounts:
    """What plans in force ask for."""

    units: dict[str, int] = field(default_factory=dict)
    """By unit, the number of the plan that it came with."""
    undone: list[str] = field(default_factory=list)
    """Units that are not done, but for those that can never be."""


def unit_records(unit_id: str, images: pa.Table, *, num_segments: int) -> UnitRecords:
    """The records of a unit's rows; `TableCounts` puts the unit's number into them."""
    ids, uris, etags, errors = (
        images[name].to_pylist() for name in ("image_id", "uri", "etag", "error_class")
    )
    own = Counter(zip(uris, etags, strict=True))
    cut = {(u, e) for u, e, c in zip(uris, etags, errors, strict=True) if c in _CUTTING_ERRORS}
    source_key = dict(zip(own, keys([_source(unit_id, *each) for each in own]), strict=True))
    image_records = np.zeros(len(ids), _IMAGE)
    if len(ids):
        image_records["key"] = keys([f"{i}\0{e}" for i, e in zip(ids, etags, strict=True)])
        image_records["source"] = [source_key[each] for each in zip(uris, etags, strict=True)]
    source_records = np.zeros(len(own), _SOURCE)
    if own:
        source_records["key"] = np.stack([source_key[each] for each in own])
        source_records["images"] = list(own.values())
        source_records["is_cut"] = [each in cut for each in own]
    status = images["status"].to_pylist()
    counts = UnitCounts(
        images=len(ids), in_error=sum(each != "ok" for each in status), segments=num_segments
    )
    return UnitRecords(unit_id=unit_id, counts=counts, images=image_records, sources=source_records)


class TableCounts:
    """Takes the records of all units, then compares them with each other, plans and reports."""

    def __init__(
        self, table: TableStore, *, done: DoneUnits, folder: Path, findings: Findings
    ) -> None:
        self._table, self._done, self._findings = table, done, findings
        self._images = Partitions(folder / "images", dtype=_IMAGE)
        self._found = Partitions(folder / "found", dtype=_SOURCE)
        self._planned = Partitions(folder / "planned", dtype=_SOURCE)
        self.of_unit: dict[str, UnitCounts] = {}
        self._unit_ids: list[str] = []
        self.total = UnitCounts()
        self.plans = PlanCounts()

    def add(self, records: UnitRecords) -> None:
        number = len(self._unit_ids)
        self._unit_ids.append(records.unit_id)
        records.images["unit"] = records.sources["unit"] = number
        self._images.add(records.images)
        self._found.add(records.sources)
        self.of_unit[records.unit_id] = records.counts
        self.total.add(records.counts)

    def check(self, *, reports: Mapping[str, dict[str, Any]], unreadable: Iterable[str]) -> None:
        """All rules on several units together.

        Args:
            unreadable: units that are done and whose rows could not be read.
        """
        runs = [run for run in runs_in_order(self._table) if self._is_readable(run)]
        left_out = set(unreadable)
        numbers = {unit_id: number for number, unit_id in enumerate(self._unit_ids)}
        self._read_plans(runs, numbers=numbers, left_out=left_out)
        for unit_id in sorted({*self.of_unit, *left_out} - self.plans.units.keys()):
            self._findings.add("planned", f"images/{unit_id}.parquet", "it is in none")
        self._compare_sources()
        self._compare_images(runs)
        for run_id, report in sorted(reports.items()):
            self._compare_report(run_id, report, runs=runs, left_out=left_out)

    def _is_readable(self, run_id: str) -> bool:
        try:
            for _ in read_plan(self._table, run_id, columns=("unit_id",)):
                pass
        except FileNotFoundError:
            self._findings.add("file", f"_runs/{run_id}/plan.parquet", "there is no such file")
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            self._findings.add("file", f"_runs/{run_id}/plan.parquet", str(error))
        else:
            return True
        return False

    def _read_plans(
        self, runs: list[str], *, numbers: Mapping[str, int], left_out: set[str]
    ) -> None:
        undone: dict[str, int] = {}
        columns = ("unit_id", "uri", "etag", "num_images")
        for plan_number, run_id in enumerate(runs):
            for batch in read_plan(self._table, run_id, columns=columns):
                rows = list(zip(*(batch[name].to_pylist() for name in columns), strict=True))
                for unit_id in dict.fromkeys(row[0] for row in rows):
                    self.plans.units.setdefault(unit_id, plan_number)
                    if unit_id not in numbers and unit_id not in left_out:
                        undone.setdefault(unit_id, plan_number)
                # A unit that several plans name has the same sources in each.
                mine = [
                    row
                    for row in rows
                    if row[0] in numbers and self.plans.units[row[0]] == plan_number
                ]
                records = np.zeros(len(mine), _SOURCE)
                if mine:
                    records["key"] = keys([_source(*row[:3]) for row in mine])
                    records["unit"] = [numbers[row[0]] for row in mine]
                    counts = [row[3] for row in mine]
                    records["images"] = [_UNKNOWN if n is None else n for n in counts]
                self._planned.add(records)
        for unit_id in self._done.given_up & undone.keys():
            del undone[unit_id]
        self.plans.undone = sorted(undone.keys() - self._superseded(undone, runs=runs))

    def _superseded(self, undone: Mapping[str, int], *, runs: list[str]) -> set[str]:
        """Undone units that planning has given up: a later one holds some of the same.

        Where that would take too much memory, none: there is enough to do in any case.
        """
        wanted: dict[str, list[tuple[str, int, str, int, float]]] = {}
        columns = ("unit_id", "uri", "etag", "start", "stop")
        count = 0
        for number, run_id in enumerate(runs if len(runs) > 1 and undone else []):
            for batch in read_plan(self._table, run_id, columns=columns):
                for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    if undone.get(row[0]) == number:
                        wanted.setdefault(row[1], []).append((row[0], number, *_piece(*row[2:])))
                        count += 1
                if count > _MOST_UNDONE_SOURCES:
                    return set()
        given_up = set()
        for run_id in runs if wanted else []:
            for batch in read_plan(self._table, run_id, columns=columns):
                for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    etag, start, stop = _piece(*row[2:])
                    for unit_id, own, own_etag, own_start, own_stop in wanted.get(row[1], ()):
                        meets = own_etag != etag or (own_start < stop and start < own_stop)
                        is_later = self.plans.units[row[0]] > own
                        if row[0] != unit_id and is_later and meets:
                            given_up.add(unit_id)
        return given_up

    def _compare_sources(self) -> None:
        for found, planned in zip(self._found, self._planned, strict=True):
            of_found, of_planned = grouped(found, planned)
            size = max([0, *(len(group) and group.max() + 1 for group in (of_found, of_planned))])
            has = np.zeros(size, np.int64)
            has[of_found] = found["images"]
            is_cut = np.zeros(size, bool)
            is_cut[of_found] = found["is_cut"]
            wants = np.zeros(size, np.int64)
            np.add.at(wants, of_planned, np.maximum(planned["images"], 0))
            is_open = np.zeros(size, bool)
            np.logical_or.at(is_open, of_planned, planned["images"] == _UNKNOWN)
            unit = np.zeros(size, np.int64)
            unit[of_found], unit[of_planned] = found["unit"], planned["unit"]
            is_planned = np.zeros(size, bool)
            is_planned[of_planned] = True
            is_wrong = is_planned & ~is_open & (has != wants) & ~(is_cut & (has <= wants + 1))
            for group in np.flatnonzero(is_wrong).tolist():
                self._findings.add(
                    "missing",
                    f"images/{self._unit_ids[unit[group]]}.parquet",
                    f"a source of {wants[group]} images has {has[group]}",
                )
            strangers = ~is_planned
            for group in np.flatnonzero(strangers).tolist():
                unit_id = self._unit_ids[unit[group]]
                if unit_id in self.plans.units:
                    self._findings.add(
                        "source",
                        f"images/{unit_id}.parquet",
                        f"{has[group]} images of one source that is not planned for it",
                    )

    def _compare_images(self, runs: list[str]) -> None:
        """Images that are there twice, but for those that were planned again."""
        several = []
        for images in self._images:
            (groups,) = grouped(images)
            of_several = images[(np.bincount(groups) > 1)[groups]] if len(groups) else images
            several.append(of_several)
        twice = np.concatenate(several)
        if not len(twice):
            return
        again = self._planned_again(runs, {bytes(each) for each in twice["source"]})
        seen: dict[tuple[bytes, int], int] = {}
        for record in twice:
            attempt = again.get(bytes(record["source"]), 0)
            key = bytes(record["key"]), attempt
            if key in seen:
                self._name_twice(record, first=seen[key])
            seen.setdefault(key, int(record["unit"]))

    def _name_twice(self, record: Any, *, first: int) -> None:
        shown = self._findings.examples.get("twice", [])
        unit_id = self._unit_ids[record["unit"]]
        where = "in the same unit" if first == record["unit"] else f"in {self._unit_ids[first]} too"
        name = ""
        if len(shown) < self._findings.most_examples:
            name = f", image {self._image_id(unit_id, record['key'])}"
        self._findings.add("twice", f"images/{unit_id}.parquet{name}", f"it is {where}")

    def _image_id(self, unit_id: str, key: Any) -> str:
        """The image that a key stands for, read once more from the table."""
        data = self._table.storage.read(self._table.file(self._done.file_name(unit_id, "images")))
        of_unit = ds.field("unit_id") == unit_id
        rows = read_parquet(data, columns=["image_id", "etag"], rows=of_unit)
        ids, etags = rows["image_id"].to_pylist(), rows["etag"].to_pylist()
        found = keys([f"{i}\0{e}" for i, e in zip(ids, etags, strict=True)])
        places = np.flatnonzero((found == key).all(1)).tolist()
        return ids[places[0]] if len(places) else "of a file that changed meanwhile"

    def _planned_again(self, runs: list[str], wanted: set[bytes]) -> dict[bytes, int]:
        """By source of a unit, how many units before held it; 0 is left out."""
        found: dict[bytes, int] = {}
        columns = ("unit_id", "uri", "etag", "again")
        for run_id in runs:
            for batch in read_plan(self._table, run_id, columns=columns):
                if "again" not in batch.schema.names:
                    continue
                rows = zip(*(batch[name].to_pylist() for name in columns), strict=True)
                chosen = [row for row in rows if row[3]]
                for row, key in zip(chosen, keys([_source(*r[:3]) for r in chosen]), strict=True):
                    if bytes(key) in wanted:
                        found[bytes(key)] = row[3]
        return found

    def _compare_report(
        self, run_id: str, report: dict[str, Any], *, runs: list[str], left_out: set[str]
    ) -> None:
        place = f"_runs/{run_id}/report.json"
        in_error = sum(report["errors"].values())
        if in_error != report["images_in_error"]:
            found = f"errors by class make {in_error}, images_in_error is"
            self._findings.add("report", place, f"{found} {report['images_in_error']}")
        planned: set[str] = set()
        for batch in read_plan(self._table, run_id, columns=("unit_id",)) if run_id in runs else ():
            planned |= set(batch["unit_id"].to_pylist())
        if len(planned) != report["units_planned"]:
            said = report["units_planned"]
            self._findings.add("report", place, f"units_planned is {said}, not {len(planned)}")
        done = planned & self.of_unit.keys()
        if planned & left_out:
            return  # what these hold, nobody can say
        if report["units_committed"] > len(done):
            said = report["units_committed"]
            self._findings.add("report", place, f"units_committed is {said}, done {len(done)}")
        rows = UnitCounts()
        for unit_id in done:
            rows.add(self.of_unit[unit_id])
        did_all = report["units_committed"] == len(done) == len(planned)
        sums = (
            ("images", rows.images, 0.0),
            ("images_in_error", rows.in_error, 0.0),
            ("segments", rows.segments, _ROUNDED_SHARE),
        )
        for name, there, tolerance in sums:
            said = report[name]
            bound = tolerance * there
            if said > there + bound or (did_all and abs(said - there) > bound):
                self._findings.add("report", place, f"{name} is {said}, its units have {there}")


def _source(unit_id: str, uri: str, etag: str) -> str:
    return f"{unit_id}\0{uri}\0{etag}"


def _piece(etag: str, start: int, stop: int | None) -> tuple[str, int, float]:
    return etag, start, float("inf") if stop is None else float(stop)
