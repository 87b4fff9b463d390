"""Planning: a corpus's sources to units of work, each bounded in images and bytes.

A unit is what one task reads and what one commit makes visible. Sources that an earlier plan put
into a unit stay in it, done or not, so that a corpus which grows between two runs never moves an
image from one unit into another. `flow.py` works on the plan.
"""

import dataclasses
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus import Listing, list_corpus
from pipeline.labelling.cutting import Cutter, slice_bytes, sliced
from pipeline.reading import ReadSettings
from pipeline.sources import Source
from pipeline.table import TableSpec, TableStore


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """How large a unit may become: the larger, the fewer files, and the more is lost in a crash."""

    unit_images: int = 1000
    """Most images of a unit, where their number is known without reading (files, Parquet)."""
    unit_bytes: int = 2**30
    """Most bytes of a unit; a tar or Parquet file larger than this is cut into several units."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Sources that are read, segmented and committed together."""

    unit_id: str
    sources: tuple[Source, ...]

    @property
    def num_images(self) -> int | None:
        """None where only reading can tell."""
        counts = [source.num_images for source in self.sources]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def num_bytes(self) -> int:
        return sum(slice_bytes(source) for source in self.sources)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do, and what it found already done."""

    units: tuple[Unit, ...]
    """Not done yet."""
    done: int
    """Number of units of this corpus that are committed."""
    earlier: int
    """Number of plans that this one takes into account: all that were in force."""
    passed_over: tuple[str, ...]
    doubled: tuple[str, ...]

    @property
    def num_images(self) -> int | None:
        counts = [unit.num_images for unit in self.units]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def num_bytes(self) -> int:
        return sum(unit.num_bytes for unit in self.units)


PLAN = pa.schema(
    [
        ("unit_index", pa.int64()),
        ("unit_id", pa.string()),
        ("uri", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("num_images", pa.int64()),
    ]
)
"""One row per source of a unit, in the order of units and of sources within them."""


def plan_corpus(
    corpus: str,
    *,
    table: TableStore,
    spec: TableSpec,
    reading: ReadSettings,
    units: UnitSettings,
    limit: int | None = None,
) -> Plan:
    """The units of a corpus that the table does not hold yet.

    Args:
        limit: plan the first images of the corpus only, so many.

    Raises:
        ValueError: the corpus holds no source at all.
    """
    earlier = _EarlierPlans(table)
    listing = list_corpus(
        corpus,
        storage=table.storage,
        settings=reading,
        is_planned=lambda file: (file.uri, file.etag) in earlier.files,
    )
    cutter = Cutter(storage=table.storage, reading=reading)
    sources: Iterable[Source] = listing.sources
    if limit is not None:
        sources = cutter.first_images(sources, limit=limit, known=earlier.slices)
    sources = list(sources)
    if not sources:
        raise ValueError(_nothing(corpus, listing))
    pending, done = earlier.units_of(sources)
    taken = _Ranges([*pending, *done])
    slices = (
        piece
        for source in sources
        for rest in taken.not_in(source)
        for piece in cutter.slices(rest, max_images=units.unit_images, max_bytes=units.unit_bytes)
    )
    new = [
        Unit(unit_id=unit_id(group, spec=spec), sources=tuple(group))
        for group in _grouped(slices, units=units)
    ]
    return Plan(
        units=(*pending, *new),
        done=len(done),
        earlier=earlier.count,
        passed_over=tuple(listing.passed_over),
        doubled=tuple(listing.doubled),
    )


def settle_plan(
    plan: Plan, *, plan_again: Callable[[], Plan], table: TableStore, run_id: str
) -> Plan:
    """A plan that is written down and in force: every plan after it takes it into account.

    Two runs that start together on a growing corpus could put one image into two different units.
    So plans come into force one after another: each takes the next number, which the storage gives
    to one writer only, and a plan that finds its number taken is made again.
    """
    while plan.units:
        _write(plan, table=table, run_id=run_id)
        if table.storage.write_new(_number_file(table, plan.earlier), run_id.encode()):
            return plan
        plan = plan_again()
    return plan


def unit_id(sources: Iterable[Source], *, spec: TableSpec) -> str:
    """The name of a unit: a function of what it reads and of what made the table, of no clock."""
    digest = hashlib.sha256(spec.fingerprint.encode())
    for source in sources:
        parts = (source.uri, source.etag, str(source.start), str(source.stop))
        digest.update("\0".join(parts).encode() + b"\1")
    return digest.hexdigest()[:24]


def _nothing(corpus: str, listing: Listing) -> str:
    count = len(listing.passed_over)
    but = f"; {count} files of other kinds, as {listing.passed_over[0]}" if count else ""
    return f"no image, archive, Parquet file or manifest at {corpus}{but}; see --corpus in --help"


def _grouped(sources: Iterable[Source], *, units: UnitSettings) -> Iterator[list[Source]]:
    """Neighbours together, up to the bounds; a source that reaches them alone stays alone."""
    group: list[Source] = []
    images = num_bytes = 0
    for source in sources:
        more_images, more_bytes = source.num_images or 1, slice_bytes(source)
        full = images + more_images > units.unit_images or num_bytes + more_bytes > units.unit_bytes
        if group and full:
            yield group
            group, images, num_bytes = [], 0, 0
        group.append(source)
        images, num_bytes = images + more_images, num_bytes + more_bytes
    if group:
        yield group


def _plan_file(table: TableStore, run_id: str) -> str:
    return table.file("_runs", run_id, "plan.parquet")


def _number_file(table: TableStore, number: int) -> str:
    """Where the run is named whose plan came into force as the so-and-so-many-th."""
    return table.file("_runs", "order", f"{number:08}")


def _runs_in_order(table: TableStore) -> list[str]:
    """The runs whose plans are in force."""
    numbers = [file.uri for file in table.storage.files(table.file("_runs", "order"))]
    # Beside numbers there may be what a crashed writer left.
    return [table.storage.read(uri).decode() for uri in numbers if uri.rsplit("/")[-1].isdigit()]


def _write(plan: Plan, *, table: TableStore, run_id: str) -> None:
    rows = [
        {"unit_index": index, "unit_id": unit.unit_id, **dataclasses.asdict(source)}
        for index, unit in enumerate(plan.units)
        for source in unit.sources
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PLAN), buffer, compression="zstd")
    table.storage.write(_plan_file(table, run_id), buffer.getvalue())


def _read(table: TableStore, run_id: str) -> Iterator[Unit]:
    rows = pq.read_table(io.BytesIO(table.storage.read(_plan_file(table, run_id))))
    sources: dict[str, list[Source]] = defaultdict(list)
    for row in rows.drop_columns(["unit_index"]).to_pylist():
        sources[row.pop("unit_id")].append(Source(**row))
    for each, members in sources.items():
        yield Unit(unit_id=each, sources=tuple(members))


class _Ranges:
    """Which parts of which sources some units hold."""

    def __init__(self, units: Iterable[Unit] = ()) -> None:
        self._taken: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        for unit in units:
            self.add(unit.sources)

    def add(self, sources: Iterable[Source]) -> None:
        for source in sources:
            self._taken[source.uri, source.etag].append((source.start, _stop(source)))

    def meet(self, source: Source) -> bool:
        """Whether any part of the source is held."""
        return any(
            start < _stop(source) and source.start < stop
            for start, stop in self._taken.get((source.uri, source.etag), ())
        )

    def not_in(self, source: Source) -> Iterator[Source]:
        """The parts of the source that are not held."""
        start = source.start
        for taken_start, taken_stop in sorted(self._taken.get((source.uri, source.etag), ())):
            if start < min(taken_start, _stop(source)):
                yield sliced(source, start=start, stop=int(min(taken_start, _stop(source))))
            start = max(start, taken_stop)  # type: ignore[assignment]
        if start == source.start:
            yield source
        elif start < _stop(source):
            yield sliced(source, start=int(start), stop=source.stop)


def _stop(source: Source) -> float:
    return math.inf if source.stop is None else source.stop


class _EarlierPlans:
    """The units of the table's earlier plans, and which of them are done."""

    def __init__(self, table: TableStore) -> None:
        # Plans first: a unit that is done by the second look is in a plan of the first, or in one
        # that takes our number.
        runs = _runs_in_order(table)
        self.count = len(runs)
        self._storage = table.storage
        self._units: dict[str, Unit] = {}
        for run_id in runs:
            for unit in _read(table, run_id):
                self._units.setdefault(unit.unit_id, unit)
        self._done = table.done_units()
        self.files = {(s.uri, s.etag) for unit in self._units.values() for s in unit.sources}
        self.slices = {
            (source.uri, source.etag, source.start): source
            for unit in self._units.values()
            for source in unit.sources
        }

    def units_of(self, sources: Iterable[Source]) -> tuple[list[Unit], list[Unit]]:
        """Units to go on with, and units done, that hold images of these sources.

        An undone unit is gone on with whole, be some of it outside of what is asked for, so that a
        run beside this one may do it too. One that lost a source can never be done: what is left
        of it is planned afresh.
        """
        wanted = _Ranges()
        wanted.add(sources)
        here = {(source.uri, source.etag) for source in sources}
        units = [u for u in self._units.values() if any(map(wanted.meet, u.sources))]
        done = [unit for unit in units if unit.unit_id in self._done]
        taken = _Ranges(done)
        pending = []
        for unit in units:
            if unit.unit_id in self._done or any(map(taken.meet, unit.sources)):
                continue
            if all((s.uri, s.etag) in here or self._is_there(s) for s in unit.sources):
                pending.append(unit)
                taken.add(unit.sources)
        return pending, done

    def _is_there(self, source: Source) -> bool:
        file = self._storage.file(source.uri)
        return (file.etag if file else "") == source.etag
