"""Tables to compact, and what readers and tools find in them."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
from drawn_tables import commit, plan, plan_unit, unit_rows

from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.table.compacted import read_pointer
from pipeline.table.store import TableStore, images, segments

DAY = 24 * 3600


def compact_table(table: TableStore, **settings: Any) -> None:
    compact(table, CompactSettings(table=table.uri, **settings))


def rows_seen(table: TableStore) -> dict[str, Counter[str]]:
    """Counts all rows that a reader of `pipeline.table.store` sees."""
    return {
        part: Counter(map(repr, opened(table.uri, storage=table.storage).to_table().to_pylist()))
        for part, opened in (("images", images), ("segments", segments))
    }


def rows_by_pattern(table: TableStore) -> dict[str, Counter[str]]:
    """Counts the rows that a tool finds which knows of no compaction, by file name patterns."""
    found = {}
    for part, schema in (("images", images), ("segments", segments)):
        relation = duckdb.sql(f"SELECT * FROM '{table.uri}/{part}/*.parquet'")
        columns = schema(table.uri).schema.names
        found[part] = Counter(
            repr(dict(zip(columns, row, strict=True))) for row in relation.fetchall()
        )
    return found


def file_contents(table: TableStore, folder: str = "") -> dict[str, bytes]:
    root = Path(table.uri, folder)
    return {
        str(path.relative_to(table.uri)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def make_older(table: TableStore, *, days: float, folder: str = "") -> None:
    """Makes all files there older."""
    for path in Path(table.uri, folder).rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - days * DAY,) * 2)


def add_units(table: TableStore, *units: str, number: int, count: int = 6) -> None:
    drawn = {unit: unit_rows(unit, images=count) for unit in units}
    plan(table, [plan_unit(u, drawn[u]) for u in units], run_id=f"run-{number}", number=number)
    for unit in units:
        commit(table, unit, drawn[unit])


def target_that_keeps_files(table: TableStore) -> int:
    """Returns the target with which the first compacted file is just large enough to stay."""
    return 2 * read_pointer(table.uri, storage=table.storage).files[0].num_bytes
