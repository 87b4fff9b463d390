"""Joins the revisions of a table's reviews into larger files, as `joining.py` joins units.

Revisions stay in the log, so that patterns as `TABLE/_reviews/log/*/*.parquet` remain correct,
until they are removed on demand. Rows are in the order of image key and number; joining the same
revisions twice gives the same files.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from pipeline.corpora.parquet import read_parquet
from pipeline.corpora.parquet_images import PARQUET_ERRORS, raise_if_from_storage
from pipeline.maintenance.compact.clearing import DAY_SECONDS, Leftover, is_old, superseded_files
from pipeline.maintenance.compact.compaction_plan import CompactionPlan, plan_compaction
from pipeline.maintenance.compact.joining import content_id
from pipeline.maintenance.compact.parquet_in_memory import ParquetInMemory
from pipeline.maintenance.compact.units import DamagedFile
from pipeline.reviews.compacted import (
    JoinedFile,
    ReviewsPointer,
    pointer_of_reviews,
    stream_joined,
)
from pipeline.reviews.log import REVISION_FILES, LogListing, ReviewLog
from pipeline.reviews.revision import REVISIONS, review_key
from pipeline.runtime.progress import duration
from pipeline.runtime.threads import map_ahead
from pipeline.runtime.wording import count
from pipeline.storage import join
from pipeline.table.compacted import FOLDER, pointer_file

_READERS = 8
_Row = tuple[tuple[str, int], pa.Table]


def join_reviews(
    log: ReviewLog, *, target_bytes: int, on_revision: Callable[[], None] = lambda: None
) -> str | None:
    """Joins revisions where that saves files; returns a line with the change, None without reviews.

    Raises:
        DamagedFile: a revision cannot be read; what readers see is the same as before.
    """
    started = time.monotonic()
    listing = log.listing()
    if not listing.own and not listing.joined.places:
        return None
    before = listing.joined.pointer
    sizes = {
        _name(key, number): file.size
        for key, files in listing.own.items()
        for number, file in files.items()
        if listing.joined.place(key, number) is None
    }
    plan = plan_compaction(sizes, files=before.files, target_bytes=target_bytes)
    opened = len(sizes) + len(before.files)
    if not plan.saves_files:
        return f"no reviews to join: readers open {count(opened, 'file')}"
    pointer = _written(plan, before=before, log=log, target_bytes=target_bytes, each=on_revision)
    name = pointer_file(log.uri, pointer.generation)
    if not log.storage.write_new(name, pointer.to_json().encode()):
        return "another compaction of the reviews finished first: this one's files are not used"
    left = len(sizes) - len(plan.units) + len(pointer.files)
    return (
        f"joined {count(len(plan.units), 'revision')} in {duration(time.monotonic() - started)}: "
        f"readers opened {count(opened, 'file')} before, and {left:,} now"
    )


def clear_reviews(log: ReviewLog, *, remove_after_days: int | None) -> list[Leftover]:
    """Removes superseded files, and the own files of revisions joined that many days ago."""
    gone = list(
        superseded_files(
            log.uri,
            names_of=lambda generation: _names_of(log, generation),
            storage=log.storage,
        )
    )
    if remove_after_days is not None:
        gone += _own_files(log.listing(), log=log, days=remove_after_days)
    for leftover in gone:
        log.storage.delete([leftover.file.uri])
    return gone


def _names_of(log: ReviewLog, generation: int) -> set[str]:
    try:
        pointer = pointer_of_reviews(log.uri, generation, storage=log.storage)
    except FileNotFoundError:  # another process removed it
        return set()
    return {file.name for file in pointer.files}


def _own_files(listing: LogListing, *, log: ReviewLog, days: int) -> Iterator[Leftover]:
    places = {
        file: log.storage.file(join(log.uri, file.name)) for file in listing.joined.pointer.files
    }
    old = {
        file
        for file, place in places.items()
        if place is not None and is_old(place, seconds=days * DAY_SECONDS)
    }
    for key, files in listing.own.items():
        for number, file in files.items():
            place = listing.joined.place(key, number)
            if place is not None and place.file in old:
                yield Leftover(file=file, kind="own file of a joined revision")


def _written(
    plan: CompactionPlan[JoinedFile],
    *,
    before: ReviewsPointer,
    log: ReviewLog,
    target_bytes: int,
    each: Callable[[], None],
) -> ReviewsPointer:
    """Writes the files of the next pointer, which is returned and not yet in force."""
    generation = before.generation + 1
    chosen = [*plan.units, *(file.name for file in plan.absorbed)]
    folder = f"{FOLDER}/{generation:08}-{content_id(chosen, target_bytes=target_bytes)}"
    streams = [_joined_rows(log, file) for file in plan.absorbed]
    streams.append(_own_rows(log, plan.units))
    written: list[JoinedFile] = []
    output = _started()
    for _, row in heapq.merge(*streams, key=lambda found: found[0]):
        output.add(row)
        each()
        if output.num_bytes >= target_bytes:
            written.append(_finished(output, f"{folder}/{len(written):03}.parquet", log=log))
            output = _started()
    if output.num_rows:
        written.append(_finished(output, f"{folder}/{len(written):03}.parquet", log=log))
    return ReviewsPointer(generation=generation, files=(*plan.kept, *written))


def _started() -> ParquetInMemory:
    options = dict(REVISION_FILES)
    group_rows = options.pop("row_group_size")
    return ParquetInMemory(REVISIONS, options=options, group_rows=group_rows)


def _finished(output: ParquetInMemory, name: str, *, log: ReviewLog) -> JoinedFile:
    data = output.close()
    log.storage.write(join(log.uri, name), data)
    return JoinedFile(name=name, num_revisions=output.num_rows, num_bytes=len(data))


def _own_rows(log: ReviewLog, names: Iterable[str]) -> Iterator[_Row]:
    def read(name: str) -> pa.Table:
        key, _, number = name.partition("/")
        uri = log.own_file(key, int(number))
        try:
            rows = read_parquet(log.storage.read(uri))
        except FileNotFoundError as error:
            raise DamagedFile(uri, "it is gone since it was listed") from error
        except PARQUET_ERRORS as error:
            raise_if_from_storage(error)
            raise DamagedFile(uri, error) from error
        return _checked(rows, uri)

    for rows in map_ahead(read, sorted(names), num_threads=_READERS):
        if len(rows) != 1:
            raise DamagedFile(log.uri, f"a file of the log has {len(rows)} rows")
        yield _keyed(rows)


def _joined_rows(log: ReviewLog, file: JoinedFile) -> Iterator[_Row]:
    try:
        for batch in stream_joined(log.uri, file, storage=log.storage):
            rows = _checked(pa.Table.from_batches([batch]), file.name)
            yield from (_keyed(rows.slice(index, 1)) for index in range(len(rows)))
    except PARQUET_ERRORS as error:
        raise_if_from_storage(error)
        raise DamagedFile(file.name, error) from error


def _keyed(row: pa.Table) -> _Row:
    return (review_key(row["image_id"][0].as_py()), row["revision"][0].as_py()), row


def _checked(rows: pa.Table, name: str) -> pa.Table:
    if not rows.schema.equals(REVISIONS, check_metadata=False):
        raise DamagedFile(name, f"its columns are not those of a revision, but {rows.schema.names}")
    return rows.replace_schema_metadata(REVISIONS.metadata)


def _name(key: str, number: int) -> str:
    return f"{key}/{number:08}"
