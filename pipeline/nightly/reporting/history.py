"""History: the reports of earlier runs on the same table, the latest first."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.nightly.reporting.run_aggregates import RunAggregates
from pipeline.table.store import TableStore


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """What is left of a run in its report."""

    run_id: str
    figures: RunAggregates
    said: dict[str, Any]
    """Its `report.json`."""


def earlier_runs(
    table: TableStore, run_id: str, *, labels: Sequence[str], count: int
) -> tuple[EarlierRun, ...]:
    """The last runs before this one that labelled images and say so, at most `count`, latest first.

    A report that cannot be understood is that of no run.
    """
    found: list[EarlierRun] = []
    for name, uri in _reports(table, before=run_id):
        if len(found) == count:
            break
        try:
            said = json.loads(table.storage.read(uri))
            figures = RunAggregates.from_dict(said, labels=labels)
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
            continue
        if figures is not None and figures.images:
            found.append(EarlierRun(run_id=name, figures=figures, said=said))
    return tuple(found)


def together(runs: Sequence[EarlierRun]) -> RunAggregates | None:
    """The figures of all runs added up; None of none."""
    if not runs:
        return None
    total = runs[0].figures
    for run in runs[1:]:
        total = total + run.figures
    return total


def _reports(table: TableStore, *, before: str) -> Iterator[tuple[str, str]]:
    """run_id and report of earlier runs, latest first: a run's id begins with its time."""
    uris = [
        file.uri
        for file in table.storage.files(table.file("_runs"))
        if file.uri.endswith("/report.json")
    ]
    named = sorted(((uri.split("/")[-2], uri) for uri in uris), reverse=True)
    return ((name, uri) for name, uri in named if name < before)
