"""Compares all units with each other, with the plans, and with the reports of runs.

Rows go into a temporary database on disk: about 150 MB for a million images. For each unit a few
numbers stay in memory.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.maintenance.verify.findings import Findings
from pipeline.table.plans import read_plan, runs_in_order
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.store import DoneUnits, TableStore

_CUTTING_ERRORS = (
    "DamagedArchive", "DamagedParquet", "NoImageColumn", "NoKeyColumn", "NotFound",
    "TruncatedArchive",
)  # fmt: skip
"""Errors of a source whose row stands in place of the images that could not be read."""

_ROUNDED_SHARE = 0.01
"""A run rounds the number of segments if it labelled images twice."""

_PLAN_COLUMNS = ("unit_id", "uri", "etag", "start", "stop", "num_images", "again")
_INSERTED_ROWS = 2**17

_TABLES = """
    CREATE TABLE images (unit_id VARCHAR, image_id VARCHAR, uri VARCHAR, etag VARCHAR,
                         error_class VARCHAR);
    CREATE TABLE plans (plan INTEGER, unit_id VARCHAR, uri VARCHAR, etag VARCHAR, start BIGINT,
                        stop BIGINT, num_images BIGINT, again BIGINT);
    CREATE TABLE read_units (unit_id VARCHAR);
    CREATE TABLE undone_units (unit_id VARCHAR);
    -- A unit that several plans name has the same sources in each.
    CREATE VIEW sources AS
        SELECT * FROM plans JOIN (SELECT unit_id, min(plan) AS plan FROM plans GROUP BY unit_id)
        USING (unit_id, plan);
"""
_SUPERSEDED = """
    SELECT DISTINCT mine.unit_id
    FROM sources mine JOIN undone_units USING (unit_id) JOIN sources later USING (uri)
    WHERE later.plan > mine.plan AND later.unit_id <> mine.unit_id AND (later.etag <> mine.etag OR (
        mine.start < coalesce(later.stop, 9223372036854775807)
        AND later.start < coalesce(mine.stop, 9223372036854775807)))
"""
_WRONG_SOURCES = """
    WITH planned AS (
        SELECT unit_id, uri, etag, coalesce(sum(num_images), 0)::BIGINT AS wanted,
            bool_or(num_images IS NULL) AS is_unknown, true AS is_planned
        FROM sources JOIN read_units USING (unit_id) GROUP BY ALL
    ), found AS (
        SELECT unit_id, uri, etag, count(*) AS found,
            coalesce(bool_or(list_contains(?, error_class)), false) AS is_cut
        FROM images GROUP BY ALL
    )
    SELECT unit_id, coalesce(found, 0) AS found, wanted
    FROM planned FULL JOIN found USING (unit_id, uri, etag)
    WHERE is_planned IS NULL OR (NOT is_unknown AND coalesce(found, 0) <> wanted
        AND NOT (coalesce(is_cut, false) AND found <= wanted + 1))
    ORDER BY unit_id, uri, etag
"""
_REPEATED_IMAGES = """
    WITH repeated AS (
        SELECT image_id, etag FROM images GROUP BY ALL HAVING count(*) > 1
    ), attempts AS (
        SELECT unit_id, uri, etag, max(again) AS again FROM sources WHERE again > 0 GROUP BY ALL
    )
    SELECT unit_id, image_id, first(unit_id) OVER attempt AS first_unit
    FROM images JOIN repeated USING (image_id, etag) LEFT JOIN attempts USING (unit_id, uri, etag)
    WINDOW attempt AS (PARTITION BY image_id, etag, coalesce(again, 0) ORDER BY unit_id)
    QUALIFY row_number() OVER attempt > 1
    ORDER BY image_id, etag, unit_id
"""


@dataclass(kw_only=True)
class UnitCounts:
    """Numbers of rows of one unit, or of several."""

    images: int = 0
    in_error: int = 0
    segments: int = 0

    def add(self, other: "UnitCounts") -> None:
        self.images += other.images
        self.in_error += other.in_error
        self.segments += other.segments


@dataclass(frozen=True, kw_only=True)
class UnitRecord:
    """The columns of one unit's images that are compared with those of other units."""

    unit_id: str
    counts: UnitCounts
    images: pa.Table

    @classmethod
    def of(cls, unit_id: str, images: pa.Table, *, num_segments: int) -> "UnitRecord":
        is_ok = pc.fill_null(pc.equal(images["status"], "ok"), False)
        num_ok = pc.sum(is_ok).as_py() or 0
        counts = UnitCounts(
            images=len(images), in_error=len(images) - num_ok, segments=num_segments
        )
        own = pa.repeat(pa.scalar(unit_id), len(images))
        columns = images.select(["image_id", "uri", "etag", "error_class"])
        return cls(unit_id=unit_id, counts=counts, images=columns.append_column("unit_id", own))


@dataclass(kw_only=True)
class TableCounts:
    """Takes the records of all units, then compares them with each other, plans and reports."""

    table: TableStore
    done: DoneUnits
    database: ScratchDatabase
    findings: Findings
    of_unit: dict[str, UnitCounts] = field(default_factory=dict)
    total: UnitCounts = field(default_factory=UnitCounts)
    undone: tuple[str, ...] = ()
    """Planned units that are not done and not replaced by later ones; known after `check`."""
    _new_images: list[pa.Table] = field(default_factory=list)
    _num_new: int = 0

    def __post_init__(self) -> None:
        self.database.run(_TABLES)

    def add(self, record: UnitRecord) -> None:
        self.of_unit[record.unit_id] = record.counts
        self.total.add(record.counts)
        self._new_images.append(record.images)
        self._num_new += len(record.images)
        if self._num_new >= _INSERTED_ROWS:
            self._insert_images()

    def check(self, *, reports: Mapping[str, dict[str, Any]], unreadable: Collection[str]) -> None:
        """Checks all rules that concern several units.

        Args:
            unreadable: units that are done and whose rows could not be read.
        """
        if self._new_images:
            self._insert_images()
        self.database.insert("read_units", _unit_table(self.of_unit))
        plan_of: dict[str, int] = {}
        for run_id in runs_in_order(self.table):
            if self._insert_plan(run_id, number=len(plan_of)):
                plan_of[run_id] = len(plan_of)
        units_of: dict[int, set[str]] = defaultdict(set)
        for plan, unit_id in self.database.rows("SELECT DISTINCT plan, unit_id FROM plans"):
            units_of[plan].add(unit_id)
        planned = set[str]().union(*units_of.values())
        for unit_id in sorted({*self.of_unit, *unreadable} - planned):
            self.findings.add("planned", f"images/{unit_id}.parquet", "it is in no plan")
        self.undone = self._undone(planned - {*unreadable})
        self._compare_sources(planned)
        self._compare_images()
        for run_id, report in sorted(reports.items()):
            units = units_of[plan_of[run_id]] if run_id in plan_of else set[str]()
            self._compare_report(run_id, report, units=units, unreadable=unreadable)

    def _insert_images(self) -> None:
        self.database.insert("images", pa.concat_tables(self._new_images))
        self._new_images, self._num_new = [], 0

    def _insert_plan(self, run_id: str, *, number: int) -> bool:
        """Inserts the rows of a plan; on a fault adds a finding, inserts none, returns False."""
        file = f"_runs/{run_id}/plan.parquet"
        self.database.run("BEGIN")
        try:
            for batch in read_plan(self.table, run_id, columns=_PLAN_COLUMNS):
                plan = pa.repeat(pa.scalar(number, pa.int32()), len(batch))
                rows = pa.Table.from_batches([batch]).append_column("plan", plan)
                self.database.insert("plans", rows)
        except FileNotFoundError:
            self.findings.add("file", file, "there is no such file")
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            self.findings.add("file", file, str(error))
        else:
            self.database.run("COMMIT")
            return True
        self.database.run("ROLLBACK")
        return False

    def _undone(self, planned: set[str]) -> tuple[str, ...]:
        undone = planned - self.of_unit.keys() - self.done.tombstones
        self.database.insert("undone_units", _unit_table(undone))
        superseded = {unit_id for (unit_id,) in self.database.rows(_SUPERSEDED)}
        return tuple(sorted(undone - superseded))

    def _compare_sources(self, planned: set[str]) -> None:
        for unit_id, found, wanted in self.database.rows(_WRONG_SOURCES, [*_CUTTING_ERRORS]):
            place = f"images/{unit_id}.parquet"
            if wanted is not None:
                self.findings.add(
                    "missing", place, f"images of a source: {found}, planned: {wanted}"
                )
            elif unit_id in planned:
                self.findings.add("source", place, f"{found} images of a source, planned: none")

    def _compare_images(self) -> None:
        for unit_id, image_id, first in self.database.rows(_REPEATED_IMAGES):
            found = "it is in the same unit" if first == unit_id else f"it is in {first} too"
            place = f"images/{unit_id}.parquet, image {image_id}"
            self.findings.add("twice", place, found)

    def _compare_report(
        self,
        run_id: str,
        report: dict[str, Any],
        *,
        units: set[str],
        unreadable: Collection[str],
    ) -> None:
        def add(found: str) -> None:
            self.findings.add("report", f"_runs/{run_id}/report.json", found)

        in_error = sum(report["errors"].values())
        if in_error != report["images_in_error"]:
            add(
                f"images_in_error is {report['images_in_error']}, errors by class sum to {in_error}"
            )
        if len(units) != report["units_planned"]:
            add(f"units_planned is {report['units_planned']}, the plan has {len(units)}")
        done = units & self.of_unit.keys()
        if units & {*unreadable}:
            return  # the rows of these units are unknown
        committed = report["units_committed"]
        if committed > len(done):
            add(f"units_committed is {committed}, units done are {len(done)}")
        rows = UnitCounts()
        for unit_id in done:
            rows.add(self.of_unit[unit_id])
        did_all = committed == len(done) == len(units)
        for name, count, tolerance in (
            ("images", rows.images, 0.0),
            ("images_in_error", rows.in_error, 0.0),
            ("segments", rows.segments, _ROUNDED_SHARE),
        ):
            excess, bound = report[name] - count, tolerance * count
            if excess > bound or (did_all and abs(excess) > bound):
                add(f"{name} is {report[name]}, its units have {count}")


def _unit_table(unit_ids: Collection[str]) -> pa.Table:
    return pa.table({"unit_id": pa.array([*unit_ids], pa.string())})
