"""How four readers take a tar of images: ours, Python's, webdataset's and Ray Data's."""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.storage import Storage

Images = dict[str, bytes]
"""By the key that webdataset gives them; ids of ours without the archive's name."""


class FoundOut(Exception):
    """The reader said that something is wrong, after the images that it gave before."""


def of_this_project(data: bytes, images: Images) -> None:
    source = Source(uri="/a.tar", name="a.tar", kind="tar", etag="e", size=len(data))
    errors = []
    for image in read_source(source, storage=_Held(data), settings=ReadSettings()):
        if image.data is None:
            errors.append(image.error)
        else:
            images[image.image_id.removeprefix("a.tar/")] = image.data
    if errors:
        raise FoundOut(errors)


def of_tarfile(data: bytes, images: Images) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                images[member.name.partition(".")[0]] = file.read()


def of_webdataset(data: bytes, images: Images) -> None:
    """Reads as `webdataset.tariterators` 1.0 does, which is no dependency: `tar_file_iterator` and
    `group_by_keys` with their defaults, by which an error is raised."""

    def files() -> Iterator[tuple[str, bytes]]:
        stream = tarfile.open(fileobj=io.BytesIO(data), mode="r|*")  # noqa: SIM115
        for member in stream:
            if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name):
                continue
            file = stream.extractfile(member)
            assert file is not None
            yield member.name, file.read()
            stream.members = []  # type: ignore[attr-defined]

    sample: dict[str, Any] = {}
    for name, content in files():
        match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
        if match is None:
            continue
        if match[1] != sample.get("__key__"):
            _keep(sample, images)
            sample = {"__key__": match[1]}
        suffix = match[2].lower()
        if suffix in sample:
            raise ValueError(f"{name}: duplicate file name in tar file {suffix}")
        sample[suffix] = content
    _keep(sample, images)


def of_ray(data: bytes, images: Images) -> None:
    """Reads as `ray.data.read_webdataset` reads each file, but for its decoder."""
    from ray.data._internal.datasource.webdataset_datasource import (
        _group_by_keys,
        _tar_file_iterator,
    )

    for sample in _group_by_keys(_tar_file_iterator(io.BytesIO(data)), meta={"__url__": "a.tar"}):
        _keep(sample, images)


READERS: dict[str, Callable[[bytes, Images], None]] = {
    "ours": of_this_project,
    "tarfile": of_tarfile,
    "webdataset": of_webdataset,
    "ray": of_ray,
}


def _keep(sample: dict[str, Any], images: Images) -> None:
    for suffix, content in sample.items():
        if not suffix.startswith("__"):
            images[sample["__key__"]] = content


class _Held(Storage):
    """Storage with one object, in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        object.__setattr__(self, "data", data)

    data: bytes

    def open(self, uri: str, *, etag: str, size: int) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self.data))  # type: ignore[arg-type]

    def read(
        self, uri: str, *, etag: str | None = None, start: int = 0, stop: int | None = None
    ) -> bytes:
        return self.data[start:stop]
