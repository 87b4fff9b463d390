"""Comparing: a listing beside what earlier plans hold, on disk, in little memory.

Sources come in as the listing has them; out come the units to go on with, and the sources that are
new or changed, in the order of the listing. Single files are joined as digests, a partition at a
time; archives, which may be held in part, one by one.

An older version of a source is *outdated* where a later plan has another: its rows stay, but they
count no more. So a source that changes back is planned as one that changed.

A source that was labelled and is absent tonight is *gone*: it plans nothing, so that its rows stay
the latest. A disk that is not mounted looks as if all were gone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.sources import Source
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.planning.ranges import Ranges
from pipeline.storage import Storage, StorageFault
from pipeline.table.partitions import KEY, Partitions, Records, grouped, keys, marks
from pipeline.table.units import SOURCE, Unit, given_names, source_table, sources_of

Numbers = npt.NDArray[np.int64]

_LISTED = np.dtype([KEY, ("etag", "i8"), ("index", "i8")])
_MISSING = np.dtype([KEY, ("unit", "i4")])
_BATCH_ROWS = 2**16
_NO_UNIT = -1
_ABSENT = ""
"""The etag of a source that is not there."""


class ListingDiff:
    """A listing and the plans before it; reads the listing when it is made."""

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        earlier: PreviousPlans,
        root: str,
        storage: Storage,
        folder: Path,
        gives_up: bool,
    ) -> None:
        self._earlier, self._storage = earlier, storage
        self._listing = _ListingOnDisk(sources, root=root, folder=folder)
        self.num_listed = self._listing.num_sources
        while True:
            self._archives = _Archives(self._listing.archives, earlier=earlier)
            self._files = _Files(self._listing, earlier=earlier)
            self._pending = self._units_to_go_on_with()
            # A run beside this one may have done a unit before it lost a source, or be about to.
            lost = sorted(self._undone_units_met() - set(self._pending))
            if not lost:
                break
            earlier.give_up(lost, for_good=gives_up)
        self._pending_archives = self._archives.of(self._pending)

    @property
    def has_given_names(self) -> bool:
        """Whether a source has another name than its location gives it: a manifest's."""
        return self._listing.has_given_names

    @property
    def archives(self) -> Sequence[Source]:
        """The archives and Parquet files of the listing."""
        return self._listing.archives

    def listed(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The listing, as rows with the columns `SOURCE`, and the place of the first of them."""
        return self._listing.batches()

    @property
    def num_done(self) -> int:
        """Units that are done and hold images of these sources."""
        is_met = self._files.is_met.copy()
        is_met[list(self._archives.units_met)] = True
        return int(np.count_nonzero(is_met & self._earlier.is_done))

    @property
    def num_there(self) -> int:
        """Sources that are not absent."""
        return self._listing.num_there

    @property
    def num_gone(self) -> int:
        """Sources that were labelled and are absent now."""
        archives = (s for s in self._listing.archives if self._archives.is_gone(s))
        return int(np.count_nonzero(self._files.is_gone)) + sum(1 for _ in archives)

    def first_gone(self) -> str | None:
        """The location of one of them."""
        places = np.flatnonzero(self._files.is_gone)
        for first, rows in self._listing.batches() if len(places) else ():
            if places[0] < first + len(rows):
                return str(rows["uri"][int(places[0]) - first])
        return next((s.uri for s in self._listing.archives if self._archives.is_gone(s)), None)

    def pending(self) -> Iterator[Unit]:
        """Undone units of earlier plans that hold images of these sources.

        They are gone on with whole, be some of one outside of what is asked for, so that a run
        beside this one may do it too. One that lost a source can never be done: what is left of it
        is new.
        """
        return self._earlier.units(self._pending)

    def new(self) -> Iterator[Source]:
        """The sources, or parts of them, that no unit holds which is done or pending."""
        held = self._archives.held(self._pending)
        is_new = self._files.is_new(self._pending)
        for first, rows in self._listing.batches():
            indices = np.arange(first, first + len(rows))
            wanted = is_new[indices] | self._listing.is_archive(rows)
            chosen = sources_of(rows.filter(pa.array(wanted)))
            for index, source in zip(indices[wanted].tolist(), chosen, strict=True):
                if source.kind == "file":
                    yield replace(source, again=int(self._files.again[index]))
                elif not self._archives.is_gone(source):
                    again = self._archives.again(source)
                    yield from held.not_in(replace(source, again=again))

    def done_files(self, versions: set[tuple[str, str]]) -> Iterator[Source]:
        """Of these, by uri and etag, the files that are listed and in no pending unit, as what they
        are when they are tried again."""
        if not versions:
            return
        is_open = self._files.is_covered & ~self._files.is_claimed(self._pending)
        uris = pa.array(sorted({uri for uri, _ in versions}), pa.string())
        for first, rows in self._listing.batches():
            mask = pc.is_in(rows["uri"], value_set=uris).to_numpy(zero_copy_only=False)
            mask = mask & is_open[first : first + len(rows)]
            for index, source in zip(
                (np.flatnonzero(mask) + first).tolist(),
                sources_of(rows.filter(pa.array(mask))),
                strict=True,
            ):
                if (source.uri, source.etag) in versions:
                    yield replace(source, again=int(self._files.again[index]))

    def done_archives(self, unit_id: str, *, uri: str, etag: str) -> Iterator[Source]:
        """The parts that a unit holds of an archive that is listed."""
        number = self._earlier.number_of(unit_id)
        if (uri, etag) in self._archives.listed and number is not None:
            for source in self._earlier.archives.get(number, ()):
                if (source.uri, source.etag) == (uri, etag):
                    yield source

    def times_held(self, source: Source) -> int:
        """How many units of earlier plans hold a part of an archive, at most."""
        return self._archives.known.times_held(source)

    def is_pending(self, source: Source) -> bool:
        """Whether a unit to go on with holds any of a part of an archive."""
        return self._pending_archives.times_held(source) > 0

    def _units_to_go_on_with(self) -> list[int]:
        candidates = sorted(
            number for number in self._undone_units_met() if not self._files.is_dead[number]
        )
        missing = self._missing(candidates)
        taken = self._archives.held(())
        contested: dict[int, set[int]] = self._files.contested
        claimed: set[int] = set()
        pending: list[int] = []
        for number in candidates:
            archives = self._earlier.archives.get(number, [])
            if any(taken.meet(s) or self._archives.is_over(number, s) for s in archives):
                continue
            if contested.get(number, set()) & claimed:
                continue
            away = [s for s in archives if (s.uri, s.etag) not in self._archives.listed]
            if all(map(self._is_there, [*missing[number], *away])):
                pending.append(number)
                taken.add(archives)
                claimed |= contested.get(number, set())
        return pending

    def _undone_units_met(self) -> set[int]:
        met = {*self._files.units_here(), *self._archives.units_met}
        is_over = self._earlier.is_done | self._earlier.is_given_up
        return {number for number in met if not is_over[number]}

    def _missing(self, candidates: Sequence[int]) -> dict[int, list[Source]]:
        """The files of units that are not listed: outside of what is asked for, or gone."""
        missing: dict[int, list[Source]] = defaultdict(list)
        absent = self._files.missing_of(candidates)
        for unit in self._earlier.units(absent.keys()):
            number = self._earlier.number_of(unit.unit_id)
            assert number is not None
            files = [source for source in unit.sources if source.kind == "file"]
            for source, key in zip(files, keys([s.uri for s in files]), strict=True):
                if key.tobytes() in absent[number]:
                    missing[number].append(source)
        return missing

    def _is_there(self, source: Source) -> bool:
        try:
            file = self._storage.file(source.uri)
        except StorageFault:  # what is left of its unit need not wait for it
            return False
        if file is None:
            return source.etag == _ABSENT
        return file.may_be_read and file.etag == source.etag


class _ListingOnDisk:
    """The sources of a listing, in their order, and digests of the single files among them."""

    def __init__(self, sources: Iterable[Source], *, root: str, folder: Path) -> None:
        self.num_sources = self.num_there = 0
        self.has_given_names = False
        self.archives: list[Source] = []
        self.files = Partitions(folder / "listed", dtype=_LISTED)
        self._file = folder / "listing.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(self._file, SOURCE, options=options) as writer:
            remaining = iter(sources)
            while batch := list(islice(remaining, _BATCH_ROWS)):
                table = source_table(batch)
                writer.write_table(table, max_chunksize=_BATCH_ROWS)
                self.has_given_names |= bool(pc.any(given_names(table, root=root)).as_py())
                self._add(batch)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows with the columns `SOURCE`, and the place of the first of them."""
        first = 0
        with pa.OSFile(str(self._file)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                yield first, batch
                first += len(batch)

    @staticmethod
    def is_archive(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        return pc.not_equal(rows["kind"], "file").to_numpy(zero_copy_only=False)

    def _add(self, batch: Sequence[Source]) -> None:
        places = [place for place, source in enumerate(batch) if source.kind == "file"]
        records = np.empty(len(places), _LISTED)
        records["key"] = keys([batch[place].uri for place in places])
        records["etag"] = marks([batch[place].etag for place in places])
        records["index"] = self.num_sources + np.array(places, np.int64)
        self.files.add(records)
        self.archives += [source for source in batch if source.kind != "file"]
        self.num_sources += len(batch)
        self.num_there += sum(source.etag != _ABSENT for source in batch)


class _Files:
    """What earlier plans say of the single files of a listing."""

    def __init__(self, listing: _ListingOnDisk, *, earlier: PreviousPlans) -> None:
        self._earlier = earlier
        self._is_file = np.zeros(listing.num_sources, bool)
        self.is_covered = np.zeros(listing.num_sources, bool)
        """By place in the listing: a unit that is done holds the file as it is, or as it was
        before it was absent."""
        self.is_gone = np.zeros(listing.num_sources, bool)
        """By place in the listing: labelled, and absent now."""
        self._claims = np.full(listing.num_sources, _NO_UNIT, np.int32)
        self.again = np.zeros(listing.num_sources, np.int16)
        """By place in the listing: of the source, were it planned now."""
        num_units = len(earlier.unit_ids)
        self.is_met = np.zeros(num_units, bool)
        """By unit: holds a file that is listed as it is."""
        self.is_dead = np.zeros(num_units, bool)
        """By unit: can never be done, for a file changed or is in another unit by now."""
        self._num_here = np.zeros(num_units, np.int64)
        self._missing: list[Records] = []
        self.contested: dict[int, set[int]] = defaultdict(set)
        """By unit: places in the listing that another undone unit holds too."""
        for known, listed in zip(earlier.files, listing.files, strict=True):
            self._join(known, listed)

    def units_here(self) -> list[int]:
        """Undone units with a file that is listed."""
        return np.flatnonzero(self._num_here).tolist()

    def is_claimed(self, pending: Sequence[int]) -> npt.NDArray[np.bool_]:
        """By place in the listing: a pending unit holds the file."""
        is_pending = np.zeros(len(self._earlier.unit_ids) + 1, bool)  # the last for no unit
        is_pending[list(pending)] = True
        is_claimed = is_pending[self._claims]
        for number in set(pending) & self.contested.keys():
            is_claimed[list(self.contested[number])] = True
        return is_claimed

    def is_new(self, pending: Sequence[int]) -> npt.NDArray[np.bool_]:
        """By place in the listing: no unit holds the file that is done or pending."""
        return self._is_file & ~self.is_covered & ~self.is_claimed(pending)

    def missing_of(self, units: Sequence[int]) -> dict[int, set[bytes]]:
        """Keys of files that are not listed, of those of the units that have such."""
        missing: dict[int, set[bytes]] = defaultdict(set)
        for records in self._missing:
            for record in records[np.isin(records["unit"], units)]:
                missing[int(record["unit"])].add(record["key"].tobytes())
        return missing

    def _join(self, known: Records, listed: Records) -> None:
        self._is_file[listed["index"]] = True
        if not len(known):
            return
        known_group, listed_group = grouped(known, listed)
        num_groups = int(max(known_group.max(), listed_group.max(initial=0))) + 1
        unit, again = known["unit"], known["again"]
        is_done = self._earlier.is_done[unit]
        plan_number = self._earlier.plan_numbers[unit]
        is_outdated = _outdated(known["etag"], plan_number, group=known_group)

        place = np.full(num_groups, -1)
        place[listed_group] = np.arange(len(listed))
        place = place[known_group]
        is_listed = place >= 0
        is_same = is_listed.copy()
        is_same[is_listed] = known["etag"][is_listed] == listed["etag"][place[is_listed]]
        index = np.full(len(known), -1)
        index[is_listed] = listed["index"][place[is_listed]]

        (absent,) = marks([_ABSENT])
        was_there = known["etag"] != absent
        is_absent = np.zeros(num_groups, bool)
        is_absent[listed_group] = listed["etag"] == absent
        is_gone = is_absent[known_group] & was_there & is_done
        self.is_gone[index[is_gone]] = True

        self.is_met[unit[is_same | is_gone]] = True
        self.is_covered[index[(is_same & ~is_outdated & is_done) | is_gone]] = True
        most = _highest(again[is_same] + 1, group=place[is_same], num_groups=len(listed), least=0)
        is_repeated = self.is_covered[listed["index"]]
        # A unit of the same sources again would have the name of the one that was given up.
        is_repeated[place[is_same & (is_outdated | self._earlier.is_given_up[unit])]] = True
        self.again[listed["index"]] = np.where(is_repeated, most, 0)

        counts = ~is_outdated & is_done
        most_done = _highest(again[counts], group=known_group[counts], num_groups=num_groups)
        is_dead = is_outdated | (again <= most_done[known_group]) | (is_listed & ~is_same)
        # Its row would say that there is nothing, and come after those that say what there was.
        is_labelled = np.zeros(num_groups, bool)
        is_labelled[known_group[was_there & is_done]] = True
        is_dead |= ~was_there & is_labelled[known_group]
        self.is_dead[unit[is_dead & ~is_done]] = True
        is_open = ~is_done & ~is_dead & ~self._earlier.is_given_up[unit]
        self._claim(unit[is_open & is_same], index[is_open & is_same])
        is_missing = is_open & ~is_listed
        missing = np.empty(np.count_nonzero(is_missing), _MISSING)
        missing["key"], missing["unit"] = known["key"][is_missing], unit[is_missing]
        self._missing.append(missing)

    def _claim(self, units: npt.NDArray[np.int32], indices: Numbers) -> None:
        np.add.at(self._num_here, units, 1)
        self._claims[indices] = units
        distinct, counts = np.unique(indices, return_counts=True)
        for index in distinct[counts > 1].tolist():
            for unit in units[indices == index].tolist():
                self.contested[unit].add(index)


def _outdated(etag: Numbers, plan_number: Numbers, *, group: Numbers) -> npt.NDArray[np.bool_]:
    """Whether a later plan has another version of the file."""
    num_groups = int(group.max()) + 1
    latest = _highest(plan_number, group=group, num_groups=num_groups)
    is_latest = plan_number == latest[group]
    latest_etag = np.zeros(num_groups, np.int64)
    latest_etag[group[is_latest]] = etag[is_latest]
    is_other = etag != latest_etag[group]
    others = _highest(plan_number[is_other], group=group[is_other], num_groups=num_groups)
    return is_other | (plan_number < others[group])


def _highest(values: Numbers, *, group: Numbers, num_groups: int, least: int = -1) -> Numbers:
    highest = np.full(num_groups, least, np.int64)
    np.maximum.at(highest, group, values)
    return highest


class _Archives:
    """What earlier plans say of the archives and Parquet files of a listing."""

    def __init__(self, sources: Sequence[Source], *, earlier: PreviousPlans) -> None:
        self._earlier = earlier
        self.listed = {(source.uri, source.etag) for source in sources}
        self.known = self.of(earlier.archives)
        self._given_up = self.of(np.flatnonzero(earlier.is_given_up).tolist())
        self._plans: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for number, held in earlier.archives.items():
            for source in held:
                plan_number = int(earlier.plan_numbers[number])
                self._plans[source.uri][source.etag].add(plan_number)
        wanted = Ranges(sources)
        self._labelled = {
            source.uri
            for number, held in earlier.archives.items()
            for source in held
            if earlier.is_done[number] and source.etag != _ABSENT
        }
        gone = {source.uri for source in sources if self.is_gone(source)}
        self.units_met = {
            number
            for number, held in earlier.archives.items()
            if any(wanted.times_held(source) or source.uri in gone for source in held)
        }
        """Units that hold any of the parts that are listed."""

    def is_gone(self, source: Source) -> bool:
        """Whether it is absent and was labelled, some of it at least."""
        return source.etag == _ABSENT and source.uri in self._labelled

    def of(self, numbers: Iterable[int]) -> Ranges:
        """What these units hold."""
        archives = self._earlier.archives
        return Ranges(source for number in numbers for source in archives.get(number, ()))

    def held(self, pending: Iterable[int]) -> Ranges:
        """What units hold that are done, and these, but for what is outdated."""
        held = self.of(pending)
        for number, sources in self._earlier.archives.items():
            if self._earlier.is_done[number]:
                held.add(s for s in sources if not self.is_outdated(number, s))
        return held

    def is_over(self, number: int, source: Source) -> bool:
        """Whether an undone unit's part of an archive would say what is no longer so."""
        return self.is_outdated(number, source) or self.is_gone(source)

    def is_outdated(self, number: int, source: Source) -> bool:
        """Whether a later plan than the unit's has another version of the archive."""
        return int(self._earlier.plan_numbers[number]) < self._latest_of_others(source)

    def again(self, source: Source) -> int:
        """Of the source, were it planned now: more than 0 where an older version came back, or a
        unit that held it was given up."""
        own = self._plans[source.uri][source.etag] if source.uri in self._plans else set()
        has_come_back = bool(own) and min(own) < self._latest_of_others(source)
        has_been_held = has_come_back or self._given_up.times_held(source)
        return self.known.times_held(source) if has_been_held else 0

    def _latest_of_others(self, source: Source) -> int:
        """The latest plan with another version, -1 where there is none."""
        versions = self._plans.get(source.uri, {})
        others = (plans for etag, plans in versions.items() if etag != source.etag)
        return max((max(plans, default=-1) for plans in others), default=-1)
