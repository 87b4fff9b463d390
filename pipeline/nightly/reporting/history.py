"""Reads the reports of earlier runs on the same table, the latest first."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from pipeline.nightly.reporting.run_aggregates import RunAggregates
from pipeline.table.store import TableStore


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """A run, and the sums that its `report.json` holds."""

    run_id: str
    aggregates: RunAggregates


def earlier_runs(
    table: TableStore, run_id: str, *, labels: Sequence[str], count: int
) -> tuple[EarlierRun, ...]:
    """Returns the last `count` runs before this one that labelled images, the latest first.

    Leaves out reports that cannot be understood.
    """
    found: list[EarlierRun] = []
    for name, uri in _reports(table, before=run_id):
        if len(found) == count:
            break
        try:
            report = json.loads(table.storage.read(uri))
            aggregates = RunAggregates.from_dict(report, labels=labels)
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
            continue
        if aggregates is not None and aggregates.images:
            found.append(EarlierRun(run_id=name, aggregates=aggregates))
    return tuple(found)


def add_up(runs: Sequence[EarlierRun]) -> RunAggregates | None:
    """Returns the sums over all runs; None without any run."""
    return reduce(add, (run.aggregates for run in runs)) if runs else None


def _reports(table: TableStore, *, before: str) -> Iterator[tuple[str, str]]:
    """Yields run_id and report of earlier runs, latest first: a run's id begins with its time."""
    uris = [
        file.uri
        for file in table.storage.files(table.file("_runs"))
        if file.uri.endswith("/report.json")
    ]
    named = sorted(((uri.split("/")[-2], uri) for uri in uris), reverse=True)
    return ((name, uri) for name, uri in named if name < before)
