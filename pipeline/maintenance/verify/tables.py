"""Checks every unit of a table, then all units together.

Each thread reads one unit at a time: memory does not grow with the table.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.maintenance.compact.clearing import is_draft, is_old, segments_without_images
from pipeline.maintenance.compact.units import (
    DamagedFile,
    UnitRows,
    compacted_rows,
    read_table,
)
from pipeline.maintenance.verify.counts import TableCounts, UnitCounts, UnitRecord
from pipeline.maintenance.verify.findings import Findings
from pipeline.maintenance.verify.reviews import check_reviews
from pipeline.maintenance.verify.rows import RowFiles, check_metadata, check_rows
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.threads import map_ahead
from pipeline.table.compacted import CompactedFile
from pipeline.table.scratch import scratch_database
from pipeline.table.store import IMAGES, DoneUnits, TableSpec, TableStore


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The amounts that were checked, and the findings."""

    num_images: int
    num_segments: int
    num_units: int
    num_rles: int
    """Number of masks that were decoded."""
    num_revisions: int
    """Number of revisions in the table's reviews."""
    seconds: float
    findings: Findings
    undone: tuple[str, ...]
    """Planned units that are not done yet."""
    notices: tuple[str, ...]
    """Sentences on leftovers, which are no fault."""


@dataclass(kw_only=True)
class _Checked:
    """The findings and records of one unit, or of one compacted file."""

    findings: Findings
    records: list[UnitRecord] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    num_rles: int = 0


def verify_table(
    table: TableStore,
    *,
    sample: float,
    num_threads: int,
    most_examples: int,
    reviews: str | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> VerifyReport:
    """Checks all units that are done at this moment; runs can work at the same time.

    Args:
        reviews: folder of the table's reviews, None for that inside it.

    Raises:
        ValueError: there is no such table.
    """
    spec = table.existing_spec()
    started = time.monotonic()
    done = table.units()
    # Listed after the done units: their segments were written before.
    segments_files = table.unit_files("segments").keys()
    images_files = table.unit_files("images").keys()
    findings = Findings(most_examples=most_examples)
    checker = _Checker(
        table=table,
        spec=TableSpec.of(spec),
        sample=sample,
        most_examples=most_examples,
        done=done,
        own_files=frozenset(segments_files & images_files),
    )
    num_rles = 0
    unreadable: list[str] = []
    with scratch_database() as database:
        counts = TableCounts(table=table, done=done, database=database, findings=findings)
        for checked in map_ahead(
            lambda call: call(), checker.calls(), num_threads=num_threads, ahead=2 * num_threads
        ):
            findings.join([checked.findings])
            for record in checked.records:
                counts.add(record)
                on_images(record.counts.images)
            num_rles += checked.num_rles
            unreadable += checked.unreadable
        counts.check(reports=_reports(table, findings), unreadable=unreadable)
    log = ReviewLog.of_table(table.uri, reviews=reviews, storage=table.storage)
    reviewed = check_reviews(table, log, spec=TableSpec.of(spec), findings=findings)
    return VerifyReport(
        num_images=counts.total.images,
        num_segments=counts.total.segments,
        num_units=len(counts.of_unit),
        num_rles=num_rles,
        num_revisions=reviewed.num_revisions,
        seconds=time.monotonic() - started,
        findings=findings,
        undone=counts.undone,
        notices=(*_notices(table), *reviewed.notices),
    )


@dataclass(frozen=True, kw_only=True)
class _Checker:
    """Checks units and compacted files; threads may share it."""

    table: TableStore
    spec: TableSpec
    sample: float
    most_examples: int
    done: DoneUnits
    own_files: frozenset[str]
    """Units with both files of their own, compacted or not."""

    def calls(self) -> Iterator[Callable[[], _Checked]]:
        """Yields one call for each unit or compacted file, always in the same order."""
        for number, file in enumerate(self.done.files):
            yield partial(self._compacted, number, file)
        for unit_id in sorted(self.done.own):
            yield partial(self._unit, unit_id)

    def _unit(self, unit_id: str) -> _Checked:
        checked = _Checked(findings=Findings(most_examples=self.most_examples))
        unit = self._read(unit_id, checked)
        if unit is None:
            checked.unreadable.append(unit_id)
        else:
            name = f"{unit_id}.parquet"
            self._rows(
                unit,
                RowFiles(images=f"images/{name}", segments=f"segments/{name}"),
                checked,
            )
        return checked

    def _read(self, unit_id: str, checked: _Checked) -> UnitRows | None:
        """Reads a unit from its own files and checks their metadata; None if one is damaged."""
        name = f"{unit_id}.parquet"
        parts = {}
        for part, schema in (("images", IMAGES), ("segments", self.spec.segments_schema)):
            file = f"{part}/{name}"
            if part == "segments" and self.table.storage.file(self.table.file(file)) is None:
                checked.findings.add("pair", file, "there is no such file")
                continue
            try:
                parts[part] = read_table(self.table, file, schema=schema)
            except DamagedFile as damage:
                checked.findings.add("file", damage.name, damage.reason)
                continue
            expected = {**self.spec.file_metadata, "unit_id": unit_id}
            check_metadata(parts[part], file=file, expected=expected, findings=checked.findings)
        if len(parts) < 2:
            return None
        return UnitRows(unit_id=unit_id, **parts)

    def _compacted(self, number: int, file: CompactedFile) -> _Checked:
        checked = _Checked(findings=Findings(most_examples=self.most_examples))
        expected = {unit for unit, at in self.done.compacted.items() if at == number}
        rows = RowFiles(images=file.images, segments=file.segments)
        seen, counts = set[str](), UnitCounts()
        try:
            for unit in compacted_rows(self.table, file, segments=self.spec.segments_schema):
                if not seen:
                    check_metadata(
                        unit.images,
                        file=file.images,
                        expected=self.spec.file_metadata,
                        findings=checked.findings,
                    )
                seen.add(unit.unit_id)
                counts.images += unit.images.num_rows
                counts.segments += unit.segments.num_rows
                self._rows(unit, rows, checked)
                self._compare_with_own(unit, file, checked)
        except DamagedFile as damage:
            checked.findings.add("file", damage.name, damage.reason)
            checked.unreadable += sorted(expected - seen)
            return checked
        said = (file.num_images, file.num_segments, file.num_units)
        there = (counts.images, counts.segments, len(expected))
        if said != there:
            found = f"(images, segments, units) are {there}, the pointer says {said}"
            checked.findings.add("compacted", file.images, found)
        for unit_id in sorted(seen - expected):
            checked.findings.add(
                "compacted", file.images, f"the pointer has no unit {unit_id} there"
            )
        for unit_id in sorted(expected - seen):
            # The unit has no images here; its own file and its plan are compared with that.
            none = UnitRows(
                unit_id=unit_id,
                images=IMAGES.empty_table(),
                segments=self.spec.segments_schema.empty_table(),
            )
            self._rows(none, rows, checked)
            self._compare_with_own(none, file, checked)
        return checked

    def _compare_with_own(self, unit: UnitRows, file: CompactedFile, checked: _Checked) -> None:
        if unit.unit_id not in self.own_files:
            return
        own = self._read(unit.unit_id, checked)
        if own is None:
            return
        for part in ("images", "segments"):
            if not getattr(own, part).equals(getattr(unit, part)):
                found = f"its rows of {unit.unit_id} are not those of {part}/{unit.unit_id}.parquet"
                checked.findings.add("compacted", getattr(file, part), found)

    def _rows(self, unit: UnitRows, files: RowFiles, checked: _Checked) -> None:
        checked.num_rles += check_rows(
            unit, files=files, spec=self.spec, sample=self.sample, findings=checked.findings
        )
        checked.records.append(
            UnitRecord.of(unit.unit_id, unit.images, num_segments=unit.segments.num_rows)
        )


def _reports(table: TableStore, findings: Findings) -> dict[str, dict[str, Any]]:
    """Reads the report of each finished run, by run."""
    found = {}
    for file in list(table.storage.files(table.file("_runs"))):
        if file.uri.endswith("/report.json"):
            run_id = file.uri.rsplit("/", 2)[1]
            try:
                found[run_id] = json.loads(table.storage.read(file.uri))
            except ValueError as error:
                findings.add("file", f"_runs/{run_id}/report.json", str(error))
    return found


def _notices(table: TableStore) -> Iterator[str]:
    """Yields sentences on leftovers of crashed runs, which compaction removes."""
    staged = [file for file in table.storage.files(table.file("_staging")) if is_old(file)]
    if staged:
        yield f"staged parts older than a day: {len(staged):,}, for example {staged[0].uri}"
    drafts = [f for f in table.storage.files(table.uri) if is_draft(f) and is_old(f)]
    if drafts:
        yield f"drafts of writes older than a day: {len(drafts):,}, for example {drafts[0].uri}"
    orphans = segments_without_images(table)
    if orphans:
        yield (
            f"files in segments/ of units that are not done: {len(orphans):,}, for example "
            f"{min(orphans)}; a run stopped between a unit's two files, or is between them now"
        )
