"""Requests to object stores, each tried once; `storage.py` retries them.

`local_files.py`, `s3_objects.py` and `http_objects.py` send them by code of ours, which knows what
the answers of disks, S3 and HTTP servers mean; any other store is asked by its fsspec filesystem.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pipeline.storage.faults import SourceChanged
from pipeline.storage.file import File
from pipeline.storage.uris import join

Retry = Callable[[Callable[[], Any], str], Any]
"""Returns the result of a request, sent again where its fault may pass; the text, as "list DIR",
opens the message of a fault that stays."""


class ObjectStore:
    """Sends requests to an fsspec filesystem, for objects by their paths in it.

    Subclasses answer for the storage that they know better.
    """

    renew: Callable[[], None] | None = None
    """Gets new credentials; None where the store has none that expire."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def files(self, path: str, *, uri: str, retry: Retry) -> Iterator[File]:
        """Lists the objects below a prefix, or the one that has the path; none where absent."""
        found = retry(partial(self.fs.find, path, detail=True), f"list {uri}")
        for name, info in sorted(found.items()):
            if info.get("type") == "file":
                yield file_of(info, uri=uri_below(uri, root=path, path=name))

    def single(self, path: str, *, uri: str, retry: Retry) -> Iterator[File]:
        """Yields the object that has this very path, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            file = retry(partial(self.stat, path, uri=uri), f"look at {uri}")
            if file is not None:
                yield file

    def stat(self, path: str, *, uri: str) -> File | None:
        """Returns what a listing shows of one object, None for a folder.

        Raises:
            FileNotFoundError: nothing has this path.
        """
        info = self.info(path)
        return file_of(info, uri=uri) if info.get("type") == "file" else None

    def get(
        self, path: str, *, etag: str | None, start: int, stop: int | None, most: int | None
    ) -> bytes:
        """Returns bytes [start, stop) of the object with that etag.

        Args:
            most: of an object of unknown size, this many bytes from the start are enough.

        Raises:
            SourceChanged: the object there has another etag.
            EOFError: the object ends before `stop`.
            ConnectionError: the server sent less than it had promised.
        """
        if etag:
            self.check(path, etag)
        if start == 0 and stop is None:
            return self.fs.cat_file(path)
        return self.fs.cat_file(path, start=start, end=stop)

    def put(self, path: str, data: bytes) -> None:
        """Writes an object, whole or not at all, over an existing one."""
        self.fs.pipe_file(path, data)

    def put_file(self, path: str, local: str) -> None:
        """Writes a large file of this machine, whole or not at all, over an existing object."""
        self.fs.put_file(local, path)

    def create(self, path: str, data: bytes) -> None:
        """Writes an object, or raises FileExistsError."""
        self.fs.pipe_file(path, data, mode="create")

    def remove(self, path: str) -> None:
        self.fs.rm_file(path)

    def now(self, path: str) -> float:
        """Returns seconds since the epoch by the store's clock, or else by this machine's."""
        return time.time()

    def info(self, path: str) -> Mapping[str, Any]:
        """Returns what the store says of an object, in fsspec's words."""
        return self.fs.info(path)

    def check(self, path: str, etag: str) -> None:
        """Raises SourceChanged where the object has another etag."""
        found = etag_of(self.info(path))
        if found != etag:
            raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")


def file_of(info: Mapping[str, Any], *, uri: str) -> File:
    """Converts what a store says of an object."""
    modified = _modified(info)
    return File(
        uri=uri,
        size=_size(info),
        etag=etag_of(info),
        modified=modified.timestamp() if hasattr(modified, "timestamp") else 0.0,
    )


def etag_of(info: Mapping[str, Any]) -> str:
    """Returns the etag. Stores without etags still tell a replaced file by size and time."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or ""
    return str(etag).strip('"') or f"{_size(info)}-{_modified(info)}"


def uri_below(uri: str, *, root: str, path: str) -> str:
    """Returns the URI of a path that a listing of `uri`, whose own path is `root`, gave."""
    if path == root:
        return uri.rstrip("/")
    return join(uri, path[len(root.rstrip("/")) + 1 :])


def range_header(start: int, stop: int | None) -> str:
    return f"bytes={start}-{'' if stop is None else stop - 1}"


def check_part(sent: str, *, start: int) -> None:
    """Raises ConnectionError where a Content-Range, as "bytes 5-9/10", begins elsewhere."""
    if not sent.removeprefix("bytes ").startswith(f"{start}-"):
        raise ConnectionError(f"asked for bytes from {start}, got {sent or 'others'}")


def _size(info: Mapping[str, Any]) -> int:
    return int(info.get("size") or 0)


def _modified(info: Mapping[str, Any]) -> Any:
    return info.get("LastModified") or info.get("mtime") or info.get("updated")
