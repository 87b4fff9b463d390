"""Gives units to reading tasks: their rows of the plan are in the object store, tasks hold numbers.

One Arrow table holds many units, so that a plan costs the driver little before the first is read. A
dataset that has its units from the start names the rows of each; one that shares a plan with others
(`sub_drivers.py`) has tickets, for which its tasks ask a `UnitDispenser`.
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from pipeline.table.units import Unit

_TABLE_ROWS = 20_000
# Tasks without a unit cost the driver as much as others: they come no faster than this.
_EMPTY_QUEUE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class PlanRows:
    """The rows of a unit in one of the tables of `StoredUnits`."""

    table: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class StoredUnits:
    """Units whose rows of a plan are in the object store. Travels to workers at little cost."""

    tables: "tuple[ray.ObjectRef[pa.Table], ...]"
    rows: dict[str, PlanRows]
    """By unit_id, in the order of the units."""

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "StoredUnits":
        """Puts the units into the object store."""
        tables: list[ray.ObjectRef[pa.Table]] = []
        rows: dict[str, PlanRows] = {}
        for batch in _batches(units):
            start = 0
            for unit_id, table in batch.items():
                stop = start + len(table)
                rows[unit_id] = PlanRows(table=len(tables), start=start, stop=stop)
                start = stop
            tables.append(ray.put(pa.concat_tables(batch.values()).combine_chunks()))
        return cls(tables=tuple(tables), rows=rows)

    def tasks(self) -> "ray.data.Dataset":
        """Returns a dataset with a block for each unit, which `OpenUnit` opens."""
        return _one_row_blocks([vars(rows) for rows in self.rows.values()])


@dataclass(frozen=True, kw_only=True)
class OpenUnit:
    """Opens the tasks of `StoredUnits`."""

    tables: "tuple[ray.ObjectRef[pa.Table], ...]"

    def __call__(self, task: pa.Table) -> pa.Table | None:
        (row,) = task.to_pylist()
        return self.unit(PlanRows(**row))

    def unit(self, rows: PlanRows) -> pa.Table:
        table: pa.Table = ray.get(self.tables[rows.table])
        return table.slice(rows.start, rows.stop - rows.start)


def tickets(count: int) -> "ray.data.Dataset":
    """Returns a dataset with so many tickets, a block each, which `OpenTicket` opens."""
    return _one_row_blocks([{"ticket": number} for number in range(count)])


@dataclass(frozen=True, kw_only=True)
class OpenTicket:
    """Opens tickets of one taker: asks the dispenser for a unit."""

    units: OpenUnit
    dispenser: Any
    """The actor of a `UnitDispenser`."""
    taker: str

    def __call__(self, task: pa.Table) -> pa.Table | None:
        (ticket,) = task["ticket"].to_pylist()
        rows = ray.get(self.dispenser.take.remote(self.taker, ticket))
        if rows is None:
            time.sleep(_EMPTY_QUEUE_SECONDS)
            return None
        return self.units.unit(rows)


class UnitDispenser:
    """A queue of units for several takers; the units of a taker that is lost go back to it."""

    def __init__(self, rows: dict[str, PlanRows]) -> None:
        self._rows = rows
        self._waiting = deque(rows)
        self._held: dict[str, dict[int, str]] = {}
        self._gone: set[str] = set()
        self._is_closed = False

    def take(self, taker: str, ticket: int) -> PlanRows | None:
        """Returns the unit of a ticket: the same as before for a task that runs again."""
        held = self._held.setdefault(taker, {})
        if ticket not in held:
            if self._is_closed or taker in self._gone or not self._waiting:
                return None
            held[ticket] = self._waiting.popleft()
        return self._rows[held[ticket]]

    def held_by(self, taker: str) -> list[str]:
        return list(self._held.get(taker, {}).values())

    def give_back(self, taker: str, *, over: Collection[str]) -> list[str]:
        """Puts the units of a taker that has ended at the head of the queue, but those in `over`.

        Returns:
            The units that are in the queue again.
        """
        undone = [unit_id for unit_id in self.held_by(taker) if unit_id not in over]
        self._waiting.extendleft(reversed(undone))
        self._gone.add(taker)
        return undone

    def close(self) -> None:
        """Hands out no further unit; tickets that have one keep it."""
        self._is_closed = True


def _batches(units: Iterable[Unit]) -> Iterator[dict[str, pa.Table]]:
    batch: dict[str, pa.Table] = {}
    num_rows = 0
    for unit in units:
        batch[unit.unit_id] = unit.table()
        num_rows += len(batch[unit.unit_id])
        if num_rows >= _TABLE_ROWS:
            yield batch
            batch, num_rows = {}, 0
    if batch:
        yield batch


def _one_row_blocks(rows: Sequence[dict[str, Any]]) -> "ray.data.Dataset":
    """Returns a dataset of one-row blocks. `from_items` makes one at 1.3 ms of the driver,
    `from_arrow` starts a task for each."""
    return ray.data.from_items(list(rows), override_num_blocks=max(1, len(rows)))
