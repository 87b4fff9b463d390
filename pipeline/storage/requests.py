"""Requests: one, once, to whatever store a filesystem of fsspec reaches.

Disks, S3 and HTTP are asked by code of ours (`local_files.py`, `s3_objects.py`,
`http_objects.py`), which knows what their answers mean; any other store by its own filesystem.
`storage.py` tries again what fails here.
"""

from collections.abc import Mapping
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage import http_objects, local_files, s3_objects
from pipeline.storage.faults import SourceChanged
from pipeline.storage.file import File
from pipeline.storage.places import join


def is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)


def is_s3(fs: Any) -> bool:
    return "s3" in _protocols(fs)


def is_http(fs: Any) -> bool:
    return "http" in _protocols(fs)


def look(fs: Any, path: str, *, uri: str) -> File | None:
    """What a listing would say of one object, None where a folder lies there.

    Raises:
        FileNotFoundError: nothing does.
    """
    if is_local(fs):
        return local_files.look(path)
    info = _info(fs, path)
    return file(info, uri=uri) if info.get("type") == "file" else None


def get(
    fs: Any, path: str, *, etag: str | None, start: int, stop: int | None, most: int | None
) -> bytes:
    """Bytes [start, stop) of the object with that etag.

    Args:
        most: of an object whose size nobody knows, the first so many.
    """
    if is_local(fs):
        return local_files.get(path, etag=etag, start=start, stop=stop)
    if is_s3(fs):
        return s3_objects.get(fs, path, etag=etag, start=start, stop=stop)
    if is_http(fs):
        info, data = http_objects.get(fs, path, start=start, stop=stop, most=most)
        # Many servers say less of an object to HEAD than to GET: that alone is no change.
        if etag and info and etag != _etag(info):
            _check(fs, path, etag)
        return data
    if etag:
        _check(fs, path, etag)
    whole = start == 0 and stop is None
    return fs.cat_file(path) if whole else fs.cat_file(path, start=start, end=stop)


def put(fs: Any, path: str, data: bytes) -> None:
    """Makes an object of the data, over what was there."""
    if is_local(fs):
        local_files.put(path, data)
    elif is_s3(fs):
        s3_objects.put(fs, path, data)
    else:
        fs.pipe_file(path, data)


def create(fs: Any, path: str, data: bytes) -> bool:
    """Makes an object where there is none; whether it says so."""
    try:
        if is_local(fs):
            local_files.create(path, data)
        elif is_s3(fs):
            s3_objects.put(fs, path, data, only_new=True)
        else:
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def remove(fs: Any, path: str) -> None:
    """Removes an object."""
    if is_local(fs):
        local_files.remove(path)
    elif is_s3(fs):
        s3_objects.remove(fs, path)
    else:
        fs.rm_file(path)


def file(info: Mapping[str, Any], *, uri: str) -> File:
    """An object as its store describes it."""
    modified = _modified(info)
    return File(
        uri=uri,
        size=_size(info),
        etag=_etag(info),
        modified=modified.timestamp() if hasattr(modified, "timestamp") else 0.0,
    )


def uri_like(uri: str, *, root: str, path: str) -> str:
    """The location of a path that a listing of `uri` gave."""
    if path == root:
        return uri.rstrip("/")
    return join(uri, path[len(root.rstrip("/")) + 1 :])


def _info(fs: Any, path: str) -> dict[str, Any]:
    if is_s3(fs):
        return s3_objects.look(fs, path)
    return http_objects.look(fs, path) if is_http(fs) else fs.info(path)


def _check(fs: Any, path: str, etag: str) -> None:
    found = _etag(_info(fs, path))
    if found != etag:
        raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")


def _etag(info: Mapping[str, Any]) -> str:
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or ""
    # Stores without etags still tell a replaced file by its size and time.
    return str(etag).strip('"') or f"{_size(info)}-{_modified(info)}"


def _size(info: Mapping[str, Any]) -> int:
    return int(info.get("size") or 0)


def _modified(info: Mapping[str, Any]) -> Any:
    return info.get("LastModified") or info.get("mtime") or info.get("updated")


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
