"""Joins small units and revisions of a table into larger files, and removes leftovers of crashes.

    maskformer compact TABLE

It can run at any time, beside runs, readers and other compactions. A single write makes
`pipeline.table.store` read the larger files; the units' own files stay, so that patterns as
`TABLE/segments/*.parquet` remain correct.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.maintenance.compact.clearing import Leftover, clear, remove_own_files
from pipeline.maintenance.compact.compaction_plan import plan_compaction
from pipeline.maintenance.compact.joining import join_units, publish_pointer
from pipeline.maintenance.compact.reviews import clear_reviews, join_reviews
from pipeline.maintenance.compact.units import DamagedFile
from pipeline.maintenance.progress import ProgressLines
from pipeline.maintenance.settings import CompactSettings
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import duration
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.runtime.wording import count, data_size
from pipeline.storage import Storage
from pipeline.table.compacted import CompactedFile, compacted_units, read_pointer
from pipeline.table.store import TableStore


def compact_table(settings: Settings) -> int:
    """Compacts a table; gives 0 done, 1 where a file of the table is damaged.

    Raises:
        WrongUsage: there is no such table, or what is asked for would not be safe in its store.
        StorageFault: the storage failed.
    """
    given = settings.of(CompactSettings)
    with as_wrong_usage():
        table = TableStore(given.table, settings.of(Storage).with_environment())
        try:
            compact(table, given)
        except DamagedFile as error:
            line = f"maskformer compact: {error}; see maskformer verify {given.table}"
            print(line, file=sys.stderr)
            return ExitCode.NOT_SOUND
    return ExitCode.DONE


def compact(table: TableStore, settings: CompactSettings) -> None:
    """Joins units, publishes the new files, and removes leftovers. Each step can be repeated.

    Raises:
        ValueError: there is no such table, or its storage does not allow the requested removal.
        DamagedFile: a file of the table cannot be read; the visible rows are the same as before.
    """
    table.existing_spec()
    started = time.monotonic()
    print(_join(table, target_bytes=settings.target_bytes, started=started), flush=True)
    log = ReviewLog.of_table(table.uri, reviews=settings.reviews, storage=table.storage)
    progress = ProgressLines("revisions")
    if line := join_reviews(log, target_bytes=settings.target_bytes, on_revision=progress.advance):
        print(line, flush=True)
    gone = clear_reviews(log, remove_after_days=settings.remove_units_after_days)
    if settings.remove_units_after_days is not None:
        gone += remove_own_files(table, days=settings.remove_units_after_days)
    gone += clear(table)
    print(_cleared(gone))


def _join(table: TableStore, *, target_bytes: int, started: float) -> str:
    """Joins units where that saves files; returns a line with the change for readers."""
    images, segments = table.unit_files("images"), table.unit_files("segments")
    tombstones = table.tombstones(images.keys())
    before = read_pointer(table.uri, storage=table.storage)
    compacted = compacted_units(table.uri, before, storage=table.storage)
    own = {
        unit: file.size + (segments[unit].size if unit in segments else 0)
        for unit, file in images.items()
        if unit not in compacted and unit not in tombstones
    }
    plan = plan_compaction(own, files=before.files, target_bytes=target_bytes)
    if not plan.saves_files:
        return f"nothing to join: readers open {_extent(own, before.files)}"
    progress = ProgressLines(
        "units", total=len(plan.units) + sum(file.num_units for file in plan.absorbed)
    )
    joined = join_units(
        plan,
        before=before,
        compacted=compacted,
        table=table,
        target_bytes=target_bytes,
        on_unit=progress.advance,
    )
    if not publish_pointer(joined, table=table):
        return "another compaction finished first: the files of this one are not used"
    joined_units = set(plan.units)
    left = {unit: size for unit, size in own.items() if unit not in joined_units}
    return (
        f"joined {joined.num_units:,} units in {duration(time.monotonic() - started)}: readers "
        f"opened {_extent(own, before.files)} before, and {_extent(left, joined.pointer.files)} "
        f"now; wrote {data_size(sum(file.num_bytes for file in joined.written))}"
    )


def _extent(own: Mapping[str, int], files: Sequence[CompactedFile]) -> str:
    num_bytes = sum(own.values()) + sum(file.num_bytes for file in files)
    return f"{2 * (len(own) + len(files)):,} files of {data_size(num_bytes)}"


def _cleared(gone: Sequence[Leftover]) -> str:
    if not gone:
        return "nothing to remove"
    kinds = Counter(leftover.kind for leftover in gone)
    kinds_text = ", ".join(f"{count:,} × {what}" for what, count in sorted(kinds.items()))
    size = sum(leftover.file.size for leftover in gone)
    return f"removed {count(len(gone), 'file')} of {data_size(size)}: {kinds_text}"
