"""Files on disks, with Python's own functions: a path is bytes, and nothing in it is a language.

`storage.py` tries again what fails here. What no disk can have (a NUL in a name, a file as a
folder, a name that is too long) is not there; a disk that fails, or that refuses, raises.
"""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.storage.faults import SourceChanged
from pipeline.storage.file import File
from pipeline.storage.places import local_uri

_FOR_ALL = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_OF_THE_SYSTEM = re.compile(r"\.|(lost\+found|System Volume Information|\$RECYCLE\.BIN)$")
_NO_SUCH_PATH = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def look(path: str) -> File | None:
    """What a listing would say of one file, None where something else lies there.

    Raises:
        FileNotFoundError: nothing does.
    """
    with _absence_told(path):
        return _file(path, os.stat(path))


def folder(path: str, *, is_asked_for: bool = True) -> list[File | str]:
    """The files of a folder, and the paths of the folders in it, in the order of their paths.

    Nothing where there is no folder. What goes meanwhile is left out. Symbolic links are what they
    lead to, under their own names: one that leads nowhere is a file without an etag, one that leads
    to a folder around it is left out, for what lies there has other names.

    Args:
        is_asked_for: whether it is no folder that was found in another one; of those, hidden ones
            and what a system keeps on each disk for itself need not be allowed to this user.
    """
    entries: list[tuple[str, File | str]] = []
    try:
        with contextlib.suppress(FileNotFoundError), _absence_told(path), os.scandir(path) as found:
            for each in found:
                entry = _entry(each)
                if isinstance(entry, File):
                    entries.append((each.name, entry))
                elif entry is not None:
                    entries.append((f"{each.name}/", entry))
    except PermissionError:
        if is_asked_for or not _OF_THE_SYSTEM.match(os.path.basename(path)):
            raise
    return [entry for _, entry in sorted(entries, key=lambda named: named[0])]


def _entry(entry: "os.DirEntry[str]") -> File | str | None:
    """A file, the path of a folder, or None where it is neither."""
    try:
        with _absence_told(entry.path):
            status = entry.stat()
    except FileNotFoundError:
        is_left = entry.is_symlink() and os.path.lexists(entry.path)
        return File(uri=local_uri(entry.path), size=0, etag="") if is_left else None
    if not stat.S_ISDIR(status.st_mode):
        return _file(entry.path, status)
    return None if entry.is_symlink() and _is_around(entry.path, status) else entry.path


def _is_around(path: str, folder: os.stat_result) -> bool:
    """Whether a path leads through a folder, under whatever names."""
    return any(os.path.samestat(os.stat(parent), folder) for parent in Path(path).parents)


def get(path: str, *, etag: str | None, start: int, stop: int | None) -> bytes:
    with open_checked(path, etag=etag) as file:
        file.seek(start)
        data = file.read(-1 if stop is None else stop - start)
        # Once more: it may have been rewritten in place while we read.
        _check(file, path, etag)
        return data


def open_checked(path: str, *, etag: str | None) -> Any:
    """The file, open.

    Raises:
        FileNotFoundError: there is none.
        SourceChanged: it is not the one with that etag.
    """
    with _absence_told(path):
        file = open(path, "rb")  # noqa: SIM115  handed to the caller
    try:
        _check(file, path, etag)
    except BaseException:
        file.close()
        raise
    return file


def put(path: str, data: bytes) -> None:
    """Write beside, flush to the disk, rename: readers see all of it or nothing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def create(path: str, data: bytes) -> None:
    """The same, but only where there is nothing.

    Raises:
        FileExistsError: there is something.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    put(str(draft), data)
    try:
        os.link(draft, target)  # refuses, as a rename does not, where there is something
    except FileExistsError:
        raise
    except OSError:  # mounted buckets have no links; there, a small file is whole or not there
        with open(target, "xb") as file:
            file.write(data)
    finally:
        draft.unlink()


def remove(path: str) -> None:
    """Removes a file, and the folders that it leaves empty up to the one that keeps others."""
    target = Path(path)
    target.unlink(missing_ok=True)
    for parent in list(target.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:  # not empty, or another process was here first
            return


def _file(path: str, status: os.stat_result) -> File | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return File(
        uri=local_uri(path),
        size=status.st_size,
        etag=_etag(status),
        modified=status.st_mtime,
        may_be_read=status.st_mode & _FOR_ALL == _FOR_ALL or os.access(path, os.R_OK),
    )


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _check(file: Any, path: str, etag: str | None) -> None:
    found = _etag(os.fstat(file.fileno()))
    if etag and found != etag:
        raise SourceChanged(
            f"{local_uri(path)} changed since it was listed: etag {found}, planned {etag}"
        )


@contextlib.contextmanager
def _absence_told(path: str) -> Iterator[None]:
    """Raises FileNotFoundError wherever the error says that no disk has such a path."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in _NO_SUCH_PATH:
            raise
        raise FileNotFoundError(error.errno, os.strerror(error.errno or 0), path) from error
    except ValueError as error:
        if "\0" not in path:
            raise
        raise FileNotFoundError(f"{path!r}: a name on a disk has no NUL in it") from error
