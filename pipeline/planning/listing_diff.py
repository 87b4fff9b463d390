"""Compares a listing with previous plans, in little memory.

The result are the pending units to continue, and the sources that are new or changed, in the order
of the listing. `file_diff.py` compares single files, of which there may be millions;
`archive_diff.py` compares archives, which units may hold in part.

A disk that is not mounted looks as if all sources were gone; `planner.py` refuses to plan then.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.sources import Source
from pipeline.planning.archive_diff import ABSENT, ArchiveDiff
from pipeline.planning.file_diff import FileDiff, add_listed_files
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.storage import Storage, StorageFault
from pipeline.table.scratch import ScratchDatabase
from pipeline.table.units import SOURCE, Unit, given_names, source_table, sources_of

_BATCH_ROWS = 2**16


class ListingDiff:
    """The difference between a listing and previous plans; reads the listing when it is made."""

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        previous: PreviousPlans,
        root: str,
        storage: Storage,
        database: ScratchDatabase,
        folder: Path,
        writes_tombstones: bool,
    ) -> None:
        self._previous, self._storage = previous, storage
        self._listing = _ListingOnDisk(sources, root=root, database=database, folder=folder)
        self.num_listed = self._listing.num_sources
        while True:
            self._archives = ArchiveDiff(self._listing.archives, previous=previous)
            self._files = FileDiff(num_listed=self.num_listed, previous=previous, database=database)
            self._pending = self._pending_units()
            # Another run may have done a unit before it lost a source, or be about to do it.
            lost = sorted(self._undone_units_met() - set(self._pending))
            if not lost:
                break
            previous.give_up(lost, writes_tombstones=writes_tombstones)
        self._pending_archives = self._archives.held_by(self._pending)

    @property
    def has_given_names(self) -> bool:
        """Returns True if a manifest names a source differently from its location."""
        return self._listing.has_given_names

    @property
    def archives(self) -> Sequence[Source]:
        """Returns the archives and Parquet files of the listing."""
        return self._listing.archives

    def listed(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Reads the listing as rows with the columns `SOURCE`, and the place of the first row."""
        return self._listing.batches()

    @property
    def num_done(self) -> int:
        """Returns the number of done units that hold images of these sources."""
        is_met = self._files.is_met.copy()
        is_met[list(self._archives.units_met)] = True
        return int(np.count_nonzero(is_met & self._previous.is_done))

    @property
    def num_there(self) -> int:
        """Returns the number of sources that are not absent."""
        return self._listing.num_there

    @property
    def num_gone(self) -> int:
        """Returns the number of sources that were labelled and are absent now."""
        return int(np.count_nonzero(self._files.is_gone)) + len(self._gone_archives())

    def first_gone(self) -> str | None:
        """Returns the location of one of them."""
        places = np.flatnonzero(self._files.is_gone)
        for first, rows in self._listing.batches() if len(places) else ():
            if places[0] < first + len(rows):
                return str(rows["uri"][int(places[0]) - first])
        return next((source.uri for source in self._gone_archives()), None)

    def pending(self) -> Iterator[Unit]:
        """Reads the undone units of previous plans that hold images of these sources.

        They are continued whole, even if some of their sources are outside of this listing, so that
        another run can do the same. A unit that lost a source can never be done: its remaining
        sources are new.
        """
        return self._previous.units(self._pending)

    def new(self) -> Iterator[Source]:
        """Yields the sources, or parts of them, that no done or pending unit holds."""
        covered = self._archives.covered(self._pending)
        is_new = ~(self._files.is_covered | self._files.claimed(self._pending))
        for index, source in self._listing.sources(is_new):
            if source.kind == "file":
                yield replace(source, again=int(self._files.again[index]))
            elif not self._archives.is_gone(source):
                yield from covered.not_in(replace(source, again=self._archives.again(source)))

    def done_files(self, versions: set[tuple[str, str]]) -> Iterator[Source]:
        """Yields done, not pending files with these (uri, etag), to try them again."""
        if not versions:
            return
        is_open = self._files.is_covered & ~self._files.claimed(self._pending)
        uris = pa.array(sorted({uri for uri, _ in versions}), pa.string())
        for index, source in self._listing.sources(is_open, uris=uris):
            if (source.uri, source.etag) in versions:
                yield replace(source, again=int(self._files.again[index]))

    def done_archives(self, unit_id: str, *, uri: str, etag: str) -> Iterator[Source]:
        """Yields the parts that a unit holds of a listed archive."""
        number = self._previous.number_of(unit_id)
        if (uri, etag) in self._archives.listed and number is not None:
            for source in self._previous.archives.get(number, ()):
                if (source.uri, source.etag) == (uri, etag):
                    yield source

    def attempts(self, source: Source) -> int:
        """Returns the largest number of attempts at any part of an archive in previous plans."""
        return self._archives.planned.attempts(source)

    def is_pending(self, source: Source) -> bool:
        """Returns True if a pending unit holds any part of an archive."""
        return self._pending_archives.attempts(source) > 0

    def _gone_archives(self) -> list[Source]:
        return [source for source in self.archives if self._archives.is_gone(source)]

    def _pending_units(self) -> list[int]:
        candidates = sorted(
            number for number in self._undone_units_met() if not self._files.is_dead[number]
        )
        missing = self._files.missing(candidates)
        taken = self._archives.covered(())
        contested = self._files.contested
        claimed: set[int] = set()
        pending: list[int] = []
        for number in candidates:
            archives = self._previous.archives.get(number, [])
            if any(taken.meet(s) or self._archives.is_dead(number, s) for s in archives):
                continue
            if contested.get(number, set()) & claimed:
                continue
            absent = [
                (s.uri, s.etag) for s in archives if (s.uri, s.etag) not in self._archives.listed
            ]
            if all(self._exists(*version) for version in [*missing.get(number, ()), *absent]):
                pending.append(number)
                taken.add(archives)
                claimed |= contested.get(number, set())
        return pending

    def _undone_units_met(self) -> set[int]:
        is_met = self._files.is_claiming.copy()
        is_met[list(self._archives.units_met)] = True
        is_over = self._previous.is_done | self._previous.has_tombstone
        return set(np.flatnonzero(is_met & ~is_over).tolist())

    def _exists(self, uri: str, etag: str) -> bool:
        """Returns True if storage has this version of a source; none, if that was absent."""
        try:
            file = self._storage.file(uri)
        except StorageFault:  # the other sources of its unit need not wait for it
            return False
        if file is None:
            return etag == ABSENT
        return file.may_be_read and file.etag == etag


class _ListingOnDisk:
    """Stores the sources of a listing on disk, in their order, and files in the database."""

    def __init__(
        self, sources: Iterable[Source], *, root: str, database: ScratchDatabase, folder: Path
    ) -> None:
        self.num_sources = self.num_there = 0
        self.has_given_names = False
        self.archives: list[Source] = []
        self._file = folder / "listing.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        add_listed_files([], first=0, database=database)
        with pa.ipc.new_stream(self._file, SOURCE, options=options) as writer:
            remaining = iter(sources)
            while batch := list(islice(remaining, _BATCH_ROWS)):
                table = source_table(batch)
                writer.write_table(table, max_chunksize=_BATCH_ROWS)
                add_listed_files(batch, first=self.num_sources, database=database)
                self.has_given_names |= bool(pc.any(given_names(table, root=root)).as_py())
                self.archives += [source for source in batch if source.kind != "file"]
                self.num_sources += len(batch)
                self.num_there += sum(source.etag != ABSENT for source in batch)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Reads rows with the columns `SOURCE`, and the place of the first of them."""
        first = 0
        with pa.OSFile(str(self._file)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                yield first, batch
                first += len(batch)

    def sources(
        self, is_chosen: np.ndarray, *, uris: pa.Array | None = None
    ) -> Iterator[tuple[int, Source]]:
        """Reads the chosen sources, of these locations only, each with its place."""
        for first, rows in self.batches():
            mask = is_chosen[first : first + len(rows)]
            if uris is not None:
                mask = mask & pc.is_in(rows["uri"], uris).to_numpy(zero_copy_only=False)
            places = (np.flatnonzero(mask) + first).tolist()
            yield from zip(places, sources_of(rows.filter(pa.array(mask))), strict=True)
