"""Opens temporary databases, to join and count more rows than fit into memory.

DuckDB gets rows from us, through Arrow, and spills them to one temporary folder. It reads no other
file and no network: tables on object storage are read by `pipeline.storage`.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

_MEMORY = "384MB"
_THREADS = 2
_BATCH_ROWS = 2**16


class ScratchDatabase:
    """A database that vanishes with its block."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self._connection = connection

    def run(self, statement: str, *values: object) -> None:
        """Runs a statement; `values` are its parameters."""
        self._connection.execute(statement, list(values))

    def rows(self, query: str, *values: object) -> Iterator[tuple]:
        """Yields the rows of a query; no other query may run until the last one."""
        result = self._connection.execute(query, list(values))
        while batch := result.fetchmany(_BATCH_ROWS):
            yield from batch

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a query as Arrow batches; no other query may run meanwhile."""
        yield from self._connection.sql(query).to_arrow_reader(_BATCH_ROWS)

    @contextlib.contextmanager
    def view(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> Iterator[None]:
        """Lets statements of the block read Arrow rows by this name; a reader only once."""
        self._connection.register(name, rows)
        try:
            yield
        finally:
            self._connection.unregister(name)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds rows with the columns of the table, in any order."""
        with self.view("new_rows", rows):
            self.run(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")


@contextlib.contextmanager
def scratch_database(*, memory: str = _MEMORY) -> Iterator[ScratchDatabase]:
    """Opens an empty database; its temporary files are deleted at the end of the block.

    Args:
        memory: beyond it rows go to the temporary folder; a size as DuckDB writes it.
    """
    import duckdb  # here, since most that import this module join nothing

    with (
        tempfile.TemporaryDirectory(prefix="tables-") as folder,
        contextlib.closing(duckdb.connect()) as connection,
    ):
        for name, value in {
            "memory_limit": memory,
            "threads": _THREADS,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            # No file outside of the folder, no network, no extension.
            "enable_external_access": False,
            "lock_configuration": True,
        }.items():
            connection.execute(f"SET {name} = '{value}'")
        yield ScratchDatabase(connection)
