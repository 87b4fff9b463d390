"""A night: what one run left in the table, read once, unit by unit.

Only small columns of the run's own units are read, and of each unit no more is kept than sums and
the images that may turn out to be the strangest: memory does not grow with the run.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.nightly.reporting.run_aggregates import BINS, RunAggregates, shares
from pipeline.storage import File, SourceChanged
from pipeline.table.store import IMAGES, SEGMENTS, TableStore

_IMAGES = pa.schema([IMAGES.field(n) for n in ("image_id", "status", "coverage", "mean_score")])
_SEGMENTS = pa.schema([SEGMENTS.field(n) for n in ("image_id", "label_id", "area", "score")])
_FINE = 1000
_MOST_SURPRISE = 10.0
_SMALLEST_SHARE = 1e-4
_SAMPLED_POSITIONS = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One image, in the three ways in which it may be strange; None where it has no such value."""

    unit_id: str
    image_id: str
    mean_score: float | None
    coverage: float | None
    surprise: float | None
    """Mean over its segments' pixels of -ln of their label's share in earlier runs."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Where most values of a run lie."""

    low: float
    """5 % of the images are below."""
    middle: float
    high: float
    """5 % of the images are above."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run left in the table."""

    figures: RunAggregates
    units: int
    """That it planned and that are committed."""
    unread: int
    """Units that went away while they were read."""
    spreads: dict[str, Quantiles]
    """By the fields of `Measured`; none where no image has a value."""
    extremes: tuple[Measured, ...]
    """The images at the far ends, from which `outliers.py` chooses."""
    sample: tuple[tuple[str, str], ...]
    """unit_id and image_id of some images, for the contact sheet."""


def read_night(
    table: TableStore,
    run_id: str,
    *,
    labels: Sequence[str],
    usual: RunAggregates | None,
    extremes: int,
    sample: int,
) -> RunData:
    """Reads what the run committed.

    Args:
        usual: the figures of earlier runs, by which an image's labels are common or not.
        extremes: how many images to keep of each far end.
        sample: how many images to draw for the contact sheet.
    """
    planned = planned_units(table, run_id)
    images, segments = (
        {unit: file for unit, file in files.items() if unit in planned}
        for files in (table.unit_files("images"), table.unit_files("segments"))
    )
    for unit_id in table.given_up(images.keys()) & images.keys():
        del images[unit_id]
    reader = _Reader(labels=len(labels), usual=usual, extremes=extremes)
    unread = 0
    drawn: list[list[tuple[str, str]]] = []
    for unit_id in sorted(images):  # hashes: the order is a random one, and the same each time
        try:
            rows = _table(table, images[unit_id], _IMAGES)
            parts = _table(table, segments[unit_id], _SEGMENTS)
        except (SourceChanged, FileNotFoundError, KeyError):
            unread += 1
            continue
        reader.add(unit_id, rows, parts)
        if len(drawn) < sample:
            drawn.append([(unit_id, image_id) for image_id in _spaced(rows, count=sample)])
    return RunData(
        figures=reader.figures(),
        units=len(images),
        unread=unread,
        spreads=reader.spreads(),
        extremes=reader.extremes(),
        sample=tuple(_in_turn(drawn))[:sample],
    )


def planned_units(table: TableStore, run_id: str) -> set[str]:
    """Ids of the units in the run's plan; none where it planned nothing."""
    plan = table.storage.file(plan_file(table, run_id))
    units: set[str] = set()
    if plan is not None:
        for batch in _batches(table, plan, ["unit_id"]):
            units.update(pc.unique(batch.column("unit_id")).to_pylist())
    return units


def plan_file(table: TableStore, run_id: str) -> str:
    return table.file("_runs", run_id, "plan.parquet")


def rows_where(
    table: TableStore, uri: str, *, column: str, values: Iterable[str]
) -> Iterator[dict[str, object]]:
    """The whole rows of a Parquet file whose column has one of the values; none without a file."""
    file = table.storage.file(uri)
    if file is None:
        return
    wanted = pa.array(sorted(set(values)), pa.string())
    for batch in _batches(table, file, None):
        yield from batch.filter(pc.is_in(batch.column(column), wanted)).to_pylist()


def _table(table: TableStore, file: File, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(_batches(table, file, schema.names), schema=schema)


def _batches(table: TableStore, file: File, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    with (
        table.storage.open(file.uri, etag=file.etag, size=file.size) as opened,
        pq.ParquetFile(opened) as parquet,
    ):
        for batch in parquet.iter_batches(columns=columns, use_threads=False):
            yield batch.replace_schema_metadata(None)


def _spaced(rows: pa.Table, *, count: int) -> list[str]:
    """So many labelled images, evenly spaced among the first of a unit.

    Among the first, because an archive is read up to where the image lies.
    """
    labelled = rows.filter(pc.field("status") == "ok")["image_id"].slice(0, _SAMPLED_POSITIONS)
    places = np.unique(np.linspace(0, max(0, len(labelled) - 1), count).astype(int))
    return labelled.take(places).to_pylist() if len(labelled) else []


def _in_turn(lists: Sequence[Sequence[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """The first of each, then the second of each, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


@dataclass
class _Extreme:
    """The images with the largest values of one measure; among equals, the first by name."""

    most: int
    kept: list[tuple[float, str, Measured]] = field(default_factory=list)

    def add(self, unit_id: str, values: np.ndarray, columns: dict[str, list]) -> None:
        """Takes a unit's values; nan is none."""
        if not self.most:
            return
        there = np.flatnonzero(~np.isnan(values))
        if len(self.kept) == self.most:
            there = there[values[there] >= -self.kept[-1][0]]
        elif len(there) > self.most:  # most of a large unit need not be looked at one by one
            least = np.partition(values[there], -self.most)[-self.most]
            there = there[values[there] >= least]
        new = (
            (-float(values[i]), columns["image_id"][i], _measured(unit_id, i, columns))
            for i in there.tolist()
        )
        self.kept = heapq.nsmallest(self.most, [*self.kept, *new], key=lambda each: each[:2])


def _measured(unit_id: str, index: int, columns: dict[str, list]) -> Measured:
    return Measured(unit_id=unit_id, **{name: values[index] for name, values in columns.items()})


class _Reader:
    """Adds up units."""

    def __init__(self, *, labels: int, usual: RunAggregates | None, extremes: int) -> None:
        self._labels = labels
        self._surprises = None
        if usual is not None and usual.areas.sum():
            self._surprises = -np.log(np.maximum(shares(usual.areas), _SMALLEST_SHARE))
        self._images = 0
        self._areas = np.zeros(labels, np.int64)
        self._counts = np.zeros(labels, np.int64)
        self._scores = np.zeros(labels)
        self._sums = {"mean_score": 0.0, "coverage": 0.0}
        self._squares = {"area": 0.0, "count": 0.0}
        self._fine = {name: np.zeros(_FINE, np.int64) for name in _TOPS}
        self._ends = {name: _Extreme(extremes) for name in _ENDS}

    def add(self, unit_id: str, images: pa.Table, segments: pa.Table) -> None:
        images = images.filter(pc.field("status") == "ok")
        of_image = pc.index_in(segments["image_id"], images["image_id"].combine_chunks())
        owner = of_image.to_numpy(zero_copy_only=False)
        label = segments["label_id"].to_numpy()
        area = segments["area"].to_numpy().astype(float)
        count = len(images)
        self._images += count
        self._areas += np.bincount(label, area, self._labels).astype(np.int64)
        self._counts += np.bincount(label, minlength=self._labels)
        scores = np.nan_to_num(segments["score"].to_numpy())
        self._scores += np.bincount(label, scores, self._labels)
        image_areas = np.bincount(owner, area, count)
        self._squares["area"] += float((image_areas**2).sum())
        self._squares["count"] += float((np.bincount(owner, minlength=count) ** 2).sum())
        values = {
            name: images[name].to_numpy().astype(float) for name in ("mean_score", "coverage")
        }
        values["surprise"] = np.full(count, np.nan)
        if self._surprises is not None:
            weighted = np.bincount(owner, area * self._surprises[label], count)
            np.divide(weighted, image_areas, out=values["surprise"], where=image_areas > 0)
        for name, top in _TOPS.items():
            self._fine[name] += np.bincount(_bins(values[name], top=top), minlength=_FINE)
        for name in self._sums:
            self._sums[name] += float(np.nansum(values[name]))
        columns = {"image_id": images["image_id"].to_pylist()} | {
            name: [None if np.isnan(v) else v for v in each.tolist()]
            for name, each in values.items()
        }
        for (name, sign), end in self._ends.items():
            end.add(unit_id, sign * values[name], columns)

    def figures(self) -> RunAggregates:
        coarse = {
            name: self._fine[name].reshape(BINS, -1).sum(1) for name in ("mean_score", "coverage")
        }
        return RunAggregates(
            images=self._images,
            areas=self._areas,
            counts=self._counts,
            scores=self._scores,
            mean_scores=coarse["mean_score"],
            coverages=coarse["coverage"],
            mean_score_sum=self._sums["mean_score"],
            coverage_sum=self._sums["coverage"],
            squared_areas=self._squares["area"],
            squared_counts=self._squares["count"],
        )

    def spreads(self) -> dict[str, Quantiles]:
        found = {}
        for name, top in _TOPS.items():
            below = np.cumsum(self._fine[name])
            if below[-1]:
                low, middle, high = (
                    (int(np.searchsorted(below, share * below[-1])) + 0.5) / _FINE * top
                    for share in (0.05, 0.5, 0.95)
                )
                found[name] = Quantiles(low=low, middle=middle, high=high)
        return found

    def extremes(self) -> tuple[Measured, ...]:
        every = (measured for end in self._ends.values() for _, _, measured in end.kept)
        return tuple(dict.fromkeys(every))


_TOPS = {"mean_score": 1.0, "coverage": 1.0, "surprise": _MOST_SURPRISE}
_ENDS = (("mean_score", -1.0), ("coverage", -1.0), ("coverage", 1.0), ("surprise", 1.0))


def _bins(values: np.ndarray, *, top: float) -> np.ndarray:
    there = values[~np.isnan(values)]
    return np.clip((there / top * _FINE).astype(int), 0, _FINE - 1)
