"""Opens a file of annotations in its format."""

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.exchange.importing.annotations import AnnotationReader, UnreadableFile
from pipeline.exchange.importing.coco import CocoReader
from pipeline.exchange.importing.cvat import CvatReader
from pipeline.exchange.importing.label_maps import LabelMapReader
from pipeline.exchange.importing.label_studio import LabelStudioReader
from pipeline.exchange.importing.settings import ImportSettings
from pipeline.storage import Storage

_ZIP = b"PK\x03\x04"


@contextlib.contextmanager
def open_reader(settings: ImportSettings, *, storage: Storage) -> Iterator[AnnotationReader]:
    """Opens the file that the settings name.

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
    with storage.open(uri, etag=file.etag, size=file.size) as data:
        yield data if isinstance(data, io.BufferedReader) else io.BufferedReader(data)
