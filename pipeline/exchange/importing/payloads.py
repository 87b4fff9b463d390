"""Keeps the masks of a file, as the file has them, in a temporary file instead of in memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.storage import StorageFault


class Payloads:
    """Bytes that are added one after the other, and read again from where they begin."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0

    def add(self, data: bytes) -> int:
        """Adds bytes; returns where they begin.

        Raises:
            StorageFault: the disk of the temporary files is full.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise _fault(error) from error
        start, self._size = self._size, self._size + len(data)
        return start

    def end(self) -> None:
        """Lets `read` see all that was added."""
        try:
            self._file.flush()
        except OSError as error:
            raise _fault(error) from error

    def read(self, start: int, length: int) -> bytes:
        """Returns bytes that were added before `end`."""
        return os.pread(self._file.fileno(), length, start)


@contextmanager
def open_payloads() -> Iterator[Payloads]:
    """Opens an empty file, which vanishes with the block."""
    with tempfile.TemporaryFile(prefix="import-", buffering=1 << 20) as file:
        yield Payloads(file)


def _fault(error: OSError) -> StorageFault:
    return StorageFault(
        f"write a temporary file: {error}; make room there, or set TMPDIR to another disk"
    )
