"""Writes the files of an export, below one folder on a disk or in a bucket.

Each file appears whole or not at all. Large files grow in a temporary file of this machine, so that
memory does not grow with them. Small files are made and written in threads; `close` waits for all.
"""

import contextlib
import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.exchange.records import ImageExport
from pipeline.storage import Storage, StorageFault, join
from pipeline.storage.local_files import remove_drafts
from pipeline.storage.uris import LOCAL, local_path, protocol

_WRITES_AT_ONCE = 8


class Output:
    """The folder of an export; names are paths below it, with slashes."""

    def __init__(self, uri: str, storage: Storage) -> None:
        self.uri, self.storage = storage.absolute(uri), storage
        self._pool = ThreadPoolExecutor(_WRITES_AT_ONCE)
        self._waiting: deque[Future[None]] = deque()
        self._scratch = tempfile.TemporaryDirectory(prefix="export-")

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._scratch.cleanup()

    def file(self, name: str) -> str:
        """Returns the location of a file."""
        return join(self.uri, *name.split("/"))

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        self.storage.write(self.file(name), data)

    def write_later(self, name: str, make: Callable[[], bytes]) -> None:
        """Makes and writes a small file in another thread.

        Raises:
            Whatever an earlier one of these writes raised.
        """
        while len(self._waiting) >= 2 * _WRITES_AT_ONCE:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(lambda: self.write(name, make())))

    def flush(self) -> None:
        """Waits until all files of `write_later` are written."""
        while self._waiting:
            self._waiting.popleft().result()

    def write_photo(self, name: str, image: ImageExport) -> None:
        """Writes the photograph of an image, or a link to it; nothing with --images none."""
        if image.linked is not None:
            self._link(name, image.linked)
        elif image.photo is not None:
            data = image.photo
            self.write_later(name, lambda: data)

    def grow(self, name: str) -> "GrowingFile":
        """Opens a file to write piece by piece; its `finish` makes it appear in the export."""
        return GrowingFile(output=self, name=name, folder=self._scratch.name)

    def first_file(self) -> str | None:
        """Returns the name of one file below the folder; None where there is none."""
        file = next(self.storage.files(self.uri), None)
        return None if file is None else file.uri.removeprefix(f"{self.uri}/")

    def remove_drafts(self, *, of: str = "") -> None:
        """Removes what a process that was killed left of files that it was writing.

        Args:
            of: begin of their names, to leave all others.
        """
        if protocol(self.uri) in LOCAL:  # a bucket shows whole objects alone
            remove_drafts(local_path(self.uri), of=of)

    def _link(self, name: str, target: str) -> None:
        path = local_path(self.file(name))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # of an earlier attempt
                os.unlink(path)
            os.symlink(target, path)
        except OSError as error:
            raise StorageFault(f"link {path}: {error}") from error


class GrowingFile:
    """A file that is written piece by piece and appears in the export when it is finished."""

    def __init__(self, *, output: Output, name: str, folder: str) -> None:
        self._output, self.name = output, name
        descriptor, self._path = tempfile.mkstemp(dir=folder)
        self.file = _GuardedFile(io.FileIO(descriptor, "w"), self._path)
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        """Adds bytes to the end."""
        self.file.write(data)
        self.num_bytes += len(data)

    def finish(self) -> None:
        """Writes the file to the export."""
        self.file.close()
        self._output.storage.write_file(self._output.file(self.name), self._path)
        os.unlink(self._path)

    def pieces(self) -> Iterator[bytes]:
        """Yields what was written, to be put into another file, and drops this one."""
        self.file.close()
        with open(self._path, "rb") as file:
            while piece := file.read(2**20):
                yield piece
        os.unlink(self._path)


class _GuardedFile(io.BufferedWriter):
    """A file whose errors are faults of storage, whichever library writes: a full disk is one."""

    def __init__(self, file: io.FileIO, path: str) -> None:
        super().__init__(file)
        self._path = path

    def write(self, data: Any) -> int:
        with self._faults():
            return super().write(data)

    def flush(self) -> None:
        with self._faults():
            super().flush()

    def close(self) -> None:
        with self._faults():
            super().close()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFault(
                f"write {self._path}: {error}; make room there, or set TMPDIR to another disk"
            ) from error
