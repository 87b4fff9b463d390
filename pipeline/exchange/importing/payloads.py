"""Keeps the regions of a file, as the file has them, in a temporary file instead of in memory."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import msgspec

from pipeline.exchange.importing.annotations import Region
from pipeline.storage import StorageFault


class Payloads:
    """Regions that are added some at a time, and read again from where they begin."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Region]).decode

    def add(self, regions: Sequence[Region]) -> tuple[int, int]:
        """Adds regions; returns where they begin, and their number of bytes.

        Raises:
            StorageFault: the disk of the temporary files is full.
        """
        data = self._encode(regions)
        try:
            self._file.write(data)
        except OSError as error:
            raise _fault(error) from error
        start, self._size = self._size, self._size + len(data)
        return start, len(data)

    def end(self) -> None:
        """Lets `read` see all that was added."""
        try:
            self._file.flush()
        except OSError as error:
            raise _fault(error) from error

    def read(self, start: int, length: int) -> list[Region]:
        """Returns regions that were added before `end`."""
        return self._decode(os.pread(self._file.fileno(), length, start))


@contextmanager
def open_payloads() -> Iterator[Payloads]:
    """Opens an empty file, which vanishes with the block."""
    with tempfile.TemporaryFile(prefix="import-", buffering=1 << 20) as file:
        yield Payloads(file)


def _fault(error: OSError) -> StorageFault:
    return StorageFault(
        f"write a temporary file: {error}; make room there, or set TMPDIR to another disk"
    )
