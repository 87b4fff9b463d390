"""Holds a table as it was at one moment, and reads it again after later runs."""

import hashlib
from dataclasses import dataclass

from pipeline.review_page.grid import ImageGrid
from pipeline.review_page.index import TableIndex
from pipeline.review_page.reading_index import read_index
from pipeline.review_page.reviewed_state import ReviewedState
from pipeline.review_page.side_files import add_agreement, add_queue
from pipeline.reviews.log import ReviewLog
from pipeline.storage import Storage
from pipeline.table.store import TableSpec, TableStore

_DECIDING = (("_runs", "order"), ("_compacted", "pointers"))
"""Folders that decide, beside the units, which rows are the latest and where they lie."""


@dataclass(frozen=True, kw_only=True)
class LoadedTable:
    """The images of a table with what was said of them; places count within one of these."""

    version: str
    index: TableIndex
    state: ReviewedState
    grid: ImageGrid
    queue_missing: int
    """Number of images of the queue that the table lacks or has in error."""


@dataclass(frozen=True, kw_only=True)
class TableLoader:
    """Reads the index of a table, and the files beside it."""

    table: str
    spec: TableSpec
    log: ReviewLog
    storage: Storage
    queue: str | None
    agreement: str | None

    def version(self) -> str:
        """Returns a text that changes with each unit that is done; lists names and reads no rows.

        Raises:
            StorageFault: the storage failed, after retries.
        """
        store = TableStore(self.table, self.storage)
        listed = [*store.unit_files("images").values()]
        for folder in _DECIDING:
            listed += self.storage.files(store.file(*folder))
        digest = hashlib.sha256()
        for file in sorted(listed, key=lambda file: file.uri):
            digest.update(f"{file.uri} {file.etag}\n".encode())
        return digest.hexdigest()[:16]

    def load(self, *, before: LoadedTable | None = None) -> LoadedTable:
        """Reads all; reviews that were known `before` are not read again.

        Raises:
            WrongUsage: the queue or the agreement is none.
            StorageFault: the storage failed, after retries.
        """
        version = self.version()  # before the rows: those that come meanwhile are read next time
        index = read_index(self.table, num_labels=len(self.spec.labels), storage=self.storage)
        missing = 0
        if self.queue is not None:
            missing = add_queue(index, self.queue, storage=self.storage)
        if self.agreement is not None:
            add_agreement(index, self.agreement, storage=self.storage)
        state = ReviewedState(index, self.log, spec=self.spec)
        if before is not None:
            state.take(before.state)
        grid = ImageGrid(index, state)
        return LoadedTable(
            version=version, index=index, state=state, grid=grid, queue_missing=missing
        )
