"""Opens a file of annotations in its format."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pipeline.exchange.importing.annotations import AnnotationReader, UnreadableFile
from pipeline.exchange.importing.coco import CocoReader
from pipeline.exchange.importing.cvat import CvatReader
from pipeline.exchange.importing.label_maps import LabelMapReader
from pipeline.exchange.importing.label_studio import LabelStudioReader
from pipeline.exchange.importing.settings import ImportSettings
from pipeline.runtime.progress import FileProgress
from pipeline.storage import Storage

_ZIP = b"PK\x03\x04"


@contextlib.contextmanager
def open_reader(settings: ImportSettings, *, storage: Storage) -> Iterator[AnnotationReader]:
    """Opens the file that the settings name, and shows how much of it is read.

    Raises:
        UnreadableFile: it is not there, or an archive.
    """
    uri = storage.absolute(settings.file)
    if settings.format == "label_maps":
        yield LabelMapReader(folder=uri, storage=storage)
        return
    with _opened(uri, storage=storage) as file:
        if file.peek(4).startswith(_ZIP):
            raise UnreadableFile(f"{uri} is a ZIP; unpack it, and name the JSON or XML in it")
        yield _reader(settings, file, uri=uri)


def _reader(settings: ImportSettings, file: BinaryIO, *, uri: str) -> AnnotationReader:
    decides_overlaps = settings.overlaps == "last_on_top"
    if settings.format == "cvat":
        return CvatReader(file, uri=uri)
    if settings.format == "label_studio":
        return LabelStudioReader(file, uri=uri, decides_overlaps=decides_overlaps)
    if settings.format == "coco_instances":
        return CocoReader(file, uri=uri, decides_overlaps=decides_overlaps)
    maps = settings.maps if settings.maps is not None else uri.removesuffix(".json")
    return CocoReader(file, uri=uri, maps=maps)


@contextlib.contextmanager
def _opened(uri: str, *, storage: Storage) -> Iterator[io.BufferedReader]:
    file = storage.file(uri)
    if file is None:
        raise UnreadableFile(f"there is no file {uri}")
    if not file.size:
        raise UnreadableFile(f"{uri} is empty")
    with (
        storage.open(uri, etag=file.etag, size=file.size) as data,
        FileProgress(file.size) as progress,
    ):
        yield io.BufferedReader(_CountedFile(data, on_bytes=progress.add))


class _CountedFile(io.RawIOBase):
    """A file that says how many bytes were read of it."""

    def __init__(self, file: BinaryIO, *, on_bytes: Callable[[int], object]) -> None:
        self._file, self._on_bytes = file, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._on_bytes(count)
        return count
