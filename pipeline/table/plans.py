"""Writes and reads the plans of a table, and puts them in force.

A plan is in force as soon as a number in `_runs/order/` names its run; storage gives each number to
one writer only. `planner.py` makes a plan from a listing and the plans before it.
"""

import io
from collections.abc import Container, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.table.store import TableStore
from pipeline.table.units import PLAN, Unit, sources_of

_BATCH_ROWS = 2**16


def runs_in_order(table: TableStore) -> list[str]:
    """Returns the runs whose plans are in force, in their order."""
    numbers = [file.uri for file in table.storage.files(table.file("_runs", "order"))]
    # The folder may also hold drafts of crashed writers.
    return [table.storage.read(uri).decode() for uri in numbers if uri.rsplit("/")[-1].isdigit()]


def plan_numbers(table: TableStore) -> dict[str, int]:
    """Returns the units of all plans in force, each with the number of the first plan with it."""
    numbers: dict[str, int] = {}
    for number, run_id in enumerate(runs_in_order(table)):
        for rows in read_plan(table, run_id, columns=["unit_id"]):
            for unit_id in pa.compute.unique(rows["unit_id"]).to_pylist():
                numbers.setdefault(unit_id, number)
    return numbers


def put_in_force(table: TableStore, *, run_id: str, number: int) -> bool:
    """Gives the run's plan a number; returns False if another plan has it already."""
    place = table.file("_runs", "order", f"{number:08}")
    return table.storage.write_new(place, run_id.encode())


def write_plan(units: Iterable[Unit], *, table: TableStore, run_id: str) -> None:
    """Writes the units of a run to its plan.parquet."""
    buffer = io.BytesIO()
    repeated = ["unit_id", "kind"]
    with pq.ParquetWriter(buffer, PLAN, compression="zstd", use_dictionary=repeated) as writer:
        for batch in _batched(unit.table(index=index) for index, unit in enumerate(units)):
            writer.write_table(batch)
    table.storage.write(_plan_file(table, run_id), buffer.getvalue())


def read_plan(
    table: TableStore, run_id: str, *, columns: Sequence[str] = PLAN.names
) -> Iterator[pa.RecordBatch]:
    """Reads the rows of a plan in batches; a plan of an earlier version lacks columns."""
    file = pq.ParquetFile(io.BytesIO(table.storage.read(_plan_file(table, run_id))))
    there = [name for name in columns if name in file.schema_arrow.names]
    yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=there)


def read_units(
    table: TableStore, run_id: str, *, only: Container[str], plan_number: int
) -> Iterator[Unit]:
    """Reads the units in `only` from a plan, in its order."""
    current: str | None = None
    pieces: list[pa.RecordBatch] = []
    for batch in read_plan(table, run_id):
        for unit_id, rows in _runs_of_rows(batch):
            if unit_id != current:
                if pieces:
                    yield _unit(str(current), pieces, plan_number)
                current, pieces = unit_id, []
            if unit_id in only:
                pieces.append(rows)
    if pieces:
        yield _unit(str(current), pieces, plan_number)


def report_file(table: TableStore, run_id: str) -> str:
    """Returns the location of the report of a run."""
    return table.file("_runs", run_id, "report.json")


def _unit(unit_id: str, pieces: list[pa.RecordBatch], plan_number: int) -> Unit:
    sources = sources_of(pa.Table.from_batches(pieces))
    return Unit(unit_id=unit_id, sources=sources, plan_number=plan_number)


def _runs_of_rows(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yields the rows of each unit; they are neighbours."""
    runs = pa.compute.run_end_encode(batch["unit_id"])
    start = 0
    for unit_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield unit_id, batch.slice(start, end - start)
        start = end


def _plan_file(table: TableStore, run_id: str) -> str:
    return table.file("_runs", run_id, "plan.parquet")


def _batched(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held, rows = [], 0
    for each in tables:
        held.append(each)
        rows += len(each)
        if rows >= _BATCH_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held).combine_chunks()
