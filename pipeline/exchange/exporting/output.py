"""Writes the files of an export, below one folder on a disk or in a bucket.

Each file appears whole or not at all. Large files grow in a temporary file of this machine, so that
memory does not grow with them.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.exchange.records import ImageExport
from pipeline.storage import Storage, join


@dataclass(frozen=True, kw_only=True)
class Output:
    """The folder of an export; names are paths below it, with slashes."""

    uri: str
    storage: Storage

    def file(self, name: str) -> str:
        """Returns the location of a file."""
        return join(self.uri, *name.split("/"))

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        self.storage.write(self.file(name), data)

    @contextlib.contextmanager
    def growing(self, name: str) -> Iterator[BinaryIO]:
        """Opens a file to append to; it appears in the export at the end of the block."""
        file = self.start(name)
        try:
            yield file.file
        except BaseException:
            file.discard()
            raise
        file.finish()

    def start(self, name: str) -> "GrowingFile":
        """Opens a file that outlives one call; `finish` makes it appear."""
        return GrowingFile(output=self, name=name)

    def write_photo(self, name: str, image: ImageExport) -> None:
        """Writes the photograph of an image, or a link to it; nothing with --images none."""
        if image.linked is not None:
            self.link(name, image.linked)
        elif image.photo is not None:
            self.write(name, image.photo)

    def link(self, name: str, target: str) -> None:
        """Makes a symbolic link; one of an earlier attempt is replaced."""
        path = self.file(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(target, path)


class GrowingFile:
    """A file that is written piece by piece and appears in the export when it is finished."""

    def __init__(self, *, output: Output, name: str) -> None:
        self._output, self._name = output, name
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  closed by finish or discard

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def finish(self) -> None:
        """Writes the file to the export."""
        with self.file:
            self.file.seek(0)
            self._output.storage.write(self._output.file(self._name), self.file.read())

    def discard(self) -> None:
        self.file.close()
