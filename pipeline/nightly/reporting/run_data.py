"""Reads the rows that one run left in the table, once and unit by unit.

Reads only small columns of the run's own units, and keeps only sums and the images that may turn
out to be the most unusual: memory does not grow with the run.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.parquet import read_parquet
from pipeline.nightly.reporting.run_aggregates import BINS, RunAggregates, shares
from pipeline.storage import File, SourceChanged
from pipeline.table.store import TableStore

_IMAGES = ("image_id", "status", "coverage", "mean_score")
_SEGMENTS = ("image_id", "label_id", "area", "score")
_FINE = 1000
_MOST_SURPRISE = 10.0
_SMALLEST_SHARE = 1e-4
_SAMPLED_POSITIONS = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The three values by which an image may be unusual; None where it has no such value."""

    unit_id: str
    image_id: str
    mean_score: float | None
    coverage: float | None
    surprise: float | None
    """Mean over its segments' pixels of -ln of their label's share in earlier runs."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """The 5 % quantile, the median and the 95 % quantile of a value over a run's images."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Sums over a run's rows, and some of its images."""

    aggregates: RunAggregates
    num_units: int
    """Planned units that are committed and could be read."""
    quantiles: dict[str, Quantiles]
    """By the fields of `Measured`; without those that no image has."""
    extremes: tuple[Measured, ...]
    """The images with the lowest and highest values; `outliers.py` chooses among them."""
    sample: tuple[tuple[str, str], ...]
    """unit_id and image_id of some images, for the contact sheet."""


def read_run(
    table: TableStore,
    run_id: str,
    *,
    labels: Sequence[str],
    usual: RunAggregates | None,
    extremes: int,
    sample: int,
) -> RunData:
    """Reads what the run committed; leaves out units whose files vanish meanwhile.

    Args:
        usual: the sums of earlier runs, which say how common each label is.
        extremes: how many images with the lowest and the highest values to keep of each measure.
        sample: how many images to draw for the contact sheet.
    """
    planned = _planned_units(table, run_id)
    images, segments = (
        {unit: file for unit, file in files.items() if unit in planned}
        for files in (table.unit_files("images"), table.unit_files("segments"))
    )
    for unit_id in table.tombstones(images.keys()) & images.keys():
        del images[unit_id]
    reader = _Reader(labels=len(labels), usual=usual, extremes=extremes)
    num_units = 0
    drawn: list[list[tuple[str, str]]] = []
    for unit_id in sorted(images):  # ids are hashes: this order is random, and always the same
        try:
            rows = _read(table, images[unit_id], columns=_IMAGES)
            parts = _read(table, segments[unit_id], columns=_SEGMENTS)
        except (SourceChanged, FileNotFoundError, KeyError):
            continue
        num_units += 1
        reader.add(unit_id, rows, parts)
        if len(drawn) < sample:
            drawn.append([(unit_id, image_id) for image_id in _spaced(rows, count=sample)])
    return RunData(
        aggregates=reader.aggregates(),
        num_units=num_units,
        quantiles=reader.quantiles(),
        extremes=reader.extremes(),
        sample=tuple(_in_turn(drawn))[:sample],
    )


def plan_file(table: TableStore, run_id: str) -> str:
    """Returns the location of the plan of a run."""
    return table.file("_runs", run_id, "plan.parquet")


def rows_where(
    table: TableStore, uri: str, *, column: str, values: Iterable[str]
) -> list[dict[str, Any]]:
    """Reads the rows of a Parquet file whose column has one of the values; [] without a file."""
    file = table.storage.file(uri)
    if file is None:
        return []
    wanted = pc.field(column).isin(pa.array(sorted(set(values)), pa.string()))
    return _read(table, file, rows=wanted).to_pylist()


def _planned_units(table: TableStore, run_id: str) -> set[str]:
    plan = table.storage.file(plan_file(table, run_id))
    if plan is None:
        return set()
    return set(pc.unique(_read(table, plan, columns=["unit_id"])["unit_id"]).to_pylist())


def _read(
    table: TableStore,
    file: File,
    *,
    columns: Sequence[str] | None = None,
    rows: pc.Expression | None = None,
) -> pa.Table:
    with table.storage.open(file.uri, etag=file.etag, size=file.size) as opened:
        return read_parquet(opened, columns=columns, rows=rows)


def _spaced(rows: pa.Table, *, count: int) -> list[str]:
    """Returns up to `count` labelled images, evenly spaced among the first of a unit.

    An archive is read from its beginning up to the image, so later images would cost more.
    """
    labelled = rows.filter(pc.field("status") == "ok")["image_id"].slice(0, _SAMPLED_POSITIONS)
    places = np.unique(np.linspace(0, max(0, len(labelled) - 1), count).astype(int))
    return labelled.take(places).to_pylist() if len(labelled) else []


def _in_turn(lists: Sequence[Sequence[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """Yields the first of each list, then the second of each, and so on."""
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


@dataclass
class _Extreme:
    """Keeps the images with the largest values of one measure; among equals, the first by name."""

    most: int
    kept: list[tuple[float, str, Measured]] = field(default_factory=list)

    def add(self, unit_id: str, values: np.ndarray, columns: dict[str, list]) -> None:
        """Adds a unit's values, nan where an image has none."""
        if not self.most:
            return
        there = np.flatnonzero(~np.isnan(values))
        if len(self.kept) == self.most:
            there = there[values[there] >= -self.kept[-1][0]]
        elif len(there) > self.most:  # spares a large unit a loop over all its images
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
    """Adds up the rows of units."""

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

    def aggregates(self) -> RunAggregates:
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

    def quantiles(self) -> dict[str, Quantiles]:
        found = {}
        for name, top in _TOPS.items():
            below = np.cumsum(self._fine[name])
            if below[-1]:
                low, median, high = (
                    (int(np.searchsorted(below, share * below[-1])) + 0.5) / _FINE * top
                    for share in (0.05, 0.5, 0.95)
                )
                found[name] = Quantiles(low=low, median=median, high=high)
        return found

    def extremes(self) -> tuple[Measured, ...]:
        every = (measured for end in self._ends.values() for _, _, measured in end.kept)
        return tuple(dict.fromkeys(every))


_TOPS = {"mean_score": 1.0, "coverage": 1.0, "surprise": _MOST_SURPRISE}
_ENDS = (("mean_score", -1.0), ("coverage", -1.0), ("coverage", 1.0), ("surprise", 1.0))


def _bins(values: np.ndarray, *, top: float) -> np.ndarray:
    there = values[~np.isnan(values)]
    return np.clip((there / top * _FINE).astype(int), 0, _FINE - 1)
