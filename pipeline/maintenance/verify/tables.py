"""Tables: every unit of one, read and looked at; then all of them together.

Threads read one unit each at a time: memory does not grow with the table.
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
from pipeline.maintenance.verify.rows import RowFiles, check_metadata, check_rows
from pipeline.runtime.threads import map_ahead
from pipeline.table.compacted import CompactedFile
from pipeline.table.scratch import scratch_database
from pipeline.table.store import IMAGES, SEGMENTS, DoneUnits, TableSpec, TableStore


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what was found."""

    num_images: int
    num_segments: int
    num_units: int
    num_rles: int
    """Run lengths that were looked at."""
    seconds: float
    findings: Findings
    undone: tuple[str, ...]
    """Planned units that are not done yet."""
    notices: tuple[str, ...]
    """What is no fault, and good to know."""


@dataclass(kw_only=True)
class _Looked:
    """What one unit, or one compacted file, gave."""

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
    on_images: Callable[[int], None] = lambda count: None,
) -> VerifyReport:
    """Looks at all that is done in the table at this moment; runs may go on beside it.

    Raises:
        ValueError: there is no such table.
    """
    there = table.spec()
    if there is None:
        raise ValueError(f"{table.uri} is no segment table: it has no _table.json")
    started = time.monotonic()
    done = table.units()
    # After: a unit that is done has had its segments before.
    segments_files = table.unit_files("segments").keys()
    images_files = table.unit_files("images").keys()
    findings = Findings(most_examples=most_examples)
    look = _Look(
        table=table,
        spec=TableSpec.of(there),
        sample=sample,
        most_examples=most_examples,
        done=done,
        own_files=frozenset(segments_files & images_files),
    )
    num_rles = 0
    unreadable: list[str] = []
    with scratch_database() as database:
        counts = TableCounts(table=table, done=done, database=database, findings=findings)
        for looked in map_ahead(
            lambda call: call(), look.calls(), num_threads=num_threads, ahead=2 * num_threads
        ):
            findings.join([looked.findings])
            for record in looked.records:
                counts.add(record)
                on_images(record.counts.images)
            num_rles += looked.num_rles
            unreadable += looked.unreadable
        counts.check(reports=_reports(table, findings), unreadable=unreadable)
    return VerifyReport(
        num_images=counts.total.images,
        num_segments=counts.total.segments,
        num_units=len(counts.of_unit),
        num_rles=num_rles,
        seconds=time.monotonic() - started,
        findings=findings,
        undone=counts.undone,
        notices=tuple(_notices(table)),
    )


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Looks at units and compacted files, any number at once."""

    table: TableStore
    spec: TableSpec
    sample: float
    most_examples: int
    done: DoneUnits
    own_files: frozenset[str]
    """Units with both files of their own, compacted or not."""

    def calls(self) -> Iterator[Callable[[], _Looked]]:
        """What is to be called, in an order that is the same each time."""
        for number, file in enumerate(self.done.files):
            yield partial(self._compacted, number, file)
        for unit_id in sorted(self.done.own):
            yield partial(self._unit, unit_id)

    def _unit(self, unit_id: str) -> _Looked:
        looked = _Looked(findings=Findings(most_examples=self.most_examples))
        unit = self._read(unit_id, looked)
        if unit is None:
            looked.unreadable.append(unit_id)
        else:
            name = f"{unit_id}.parquet"
            self._rows(
                unit,
                RowFiles(images=f"images/{name}", segments=f"segments/{name}"),
                looked,
            )
        return looked

    def _read(self, unit_id: str, looked: _Looked) -> UnitRows | None:
        """A unit from its own files, and what they say of themselves; None if one is no good."""
        name = f"{unit_id}.parquet"
        parts = {}
        for part, schema in (("images", IMAGES), ("segments", SEGMENTS)):
            file = f"{part}/{name}"
            if part == "segments" and self.table.storage.file(self.table.file(file)) is None:
                looked.findings.add("pair", file, "there is no such file")
                continue
            try:
                parts[part] = read_table(self.table, file, schema=schema)
            except DamagedFile as damage:
                looked.findings.add("file", damage.name, damage.reason)
                continue
            expected = {**self.spec.file_metadata, "unit_id": unit_id}
            check_metadata(parts[part], file=file, expected=expected, findings=looked.findings)
        if len(parts) < 2:
            return None
        return UnitRows(unit_id=unit_id, **parts)

    def _compacted(self, number: int, file: CompactedFile) -> _Looked:
        looked = _Looked(findings=Findings(most_examples=self.most_examples))
        expected = {unit for unit, at in self.done.compacted.items() if at == number}
        rows = RowFiles(images=file.images, segments=file.segments)
        seen, counts = set[str](), UnitCounts()
        try:
            for unit in compacted_rows(self.table, file):
                if not seen:
                    check_metadata(
                        unit.images,
                        file=file.images,
                        expected=self.spec.file_metadata,
                        findings=looked.findings,
                    )
                seen.add(unit.unit_id)
                counts.images += unit.images.num_rows
                counts.segments += unit.segments.num_rows
                self._rows(unit, rows, looked)
                self._compare_with_own(unit, file, looked)
        except DamagedFile as damage:
            looked.findings.add("file", damage.name, damage.reason)
            looked.unreadable += sorted(expected - seen)
            return looked
        said = (file.num_images, file.num_segments, file.num_units)
        there = (counts.images, counts.segments, len(expected))
        if said != there:
            found = f"images, segments and units are {there}, the pointer says {said}"
            looked.findings.add("compacted", file.images, found)
        for unit_id in sorted(seen - expected):
            looked.findings.add(
                "compacted", file.images, f"the pointer has no unit {unit_id} there"
            )
        for unit_id in sorted(expected - seen):
            # Without images; whether that is right, only its own file and its plan can tell.
            none = UnitRows(
                unit_id=unit_id, images=IMAGES.empty_table(), segments=SEGMENTS.empty_table()
            )
            self._rows(none, rows, looked)
            self._compare_with_own(none, file, looked)
        return looked

    def _compare_with_own(self, unit: UnitRows, file: CompactedFile, looked: _Looked) -> None:
        if unit.unit_id not in self.own_files:
            return
        own = self._read(unit.unit_id, looked)
        if own is None:
            return
        for part in ("images", "segments"):
            if not getattr(own, part).equals(getattr(unit, part)):
                found = f"its rows of {unit.unit_id} are not those of {part}/{unit.unit_id}.parquet"
                looked.findings.add("compacted", getattr(file, part), found)

    def _rows(self, unit: UnitRows, files: RowFiles, looked: _Looked) -> None:
        looked.num_rles += check_rows(
            unit, files=files, spec=self.spec, sample=self.sample, findings=looked.findings
        )
        looked.records.append(
            UnitRecord.of(unit.unit_id, unit.images, num_segments=unit.segments.num_rows)
        )


def _reports(table: TableStore, findings: Findings) -> dict[str, dict[str, Any]]:
    """What each run that came to an end reported, by run."""
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
    """Lists what crashed runs left: no fault, and compaction removes what it may."""
    staged = [file for file in table.storage.files(table.file("_staging")) if is_old(file)]
    if staged:
        yield f"{len(staged):,} staged parts are older than a day, as {staged[0].uri}"
    drafts = [f for f in table.storage.files(table.uri) if is_draft(f) and is_old(f)]
    if drafts:
        yield f"{len(drafts):,} drafts of writes are older than a day, as {drafts[0].uri}"
    orphans = segments_without_images(table)
    if orphans:
        yield (
            f"{len(orphans):,} files in segments/ are of units that are not done: a run stopped "
            f"between a unit's two files, or is there now, as {min(orphans)}"
        )
