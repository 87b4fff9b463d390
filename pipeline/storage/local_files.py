"""Files on disks, by Python's own functions: a path is bytes, and nothing in it is interpreted.

`storage.py` retries what fails here. A path that no disk can have (a NUL in a name, a file as a
folder, a name that is too long) is absent; a disk that fails or refuses raises.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.storage.faults import SourceChanged
from pipeline.storage.file import File
from pipeline.storage.object_store import ObjectStore, Retry
from pipeline.storage.uris import local_uri

_COPY_BYTES = 2**20
_READABLE_BY_ALL = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_SYSTEM_FOLDER = re.compile(r"\.|(lost\+found|System Volume Information|\$RECYCLE\.BIN)$")
_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


class LocalFiles(ObjectStore):
    """Reads and writes the files of this machine's disks."""

    def __init__(self) -> None:
        super().__init__(fs=None)

    def files(self, path: str, *, uri: str, retry: Retry) -> Iterator[File]:
        """Lists folder by folder. One that cannot be read is a fault, not an empty folder."""
        is_empty = True
        for file in self._below(path, retry=retry, is_root=True):
            is_empty = False
            yield file
        if is_empty:
            yield from self.single(path, uri=uri, retry=retry)

    def _below(self, path: str, *, retry: Retry, is_root: bool) -> Iterator[File]:
        list_entries = partial(list_folder, path, is_root=is_root)
        for entry in retry(list_entries, f"list {local_uri(path)}"):
            if isinstance(entry, File):
                yield entry
            else:
                yield from self._below(entry, retry=retry, is_root=False)

    def stat(self, path: str, *, uri: str) -> File | None:
        with _absence_as_not_found(path):
            return _file(path, os.stat(path))

    def get(
        self, path: str, *, etag: str | None, start: int, stop: int | None, most: int | None
    ) -> bytes:
        with self.open(path, etag=etag) as file:
            file.seek(start)
            data = file.read(-1 if stop is None else stop - start)
            # Checked again: the file may have been rewritten in place during the read.
            _check(file, path, etag)
            return data

    def open(self, path: str, *, etag: str | None) -> Any:
        """Opens a file for reading.

        Raises:
            FileNotFoundError: there is none.
            SourceChanged: it has another etag.
        """
        with _absence_as_not_found(path):
            file = open(path, "rb")  # noqa: SIM115  returned to the caller
        try:
            _check(file, path, etag)
        except BaseException:
            file.close()
            raise
        return file

    def put(self, path: str, data: bytes) -> None:
        """Writes beside, flushes to the disk, renames: readers see the whole file or none."""
        with _replaced(path) as file:
            file.write(data)

    def put_file(self, path: str, local: str) -> None:
        with open(local, "rb") as source, _replaced(path) as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)

    def create(self, path: str, data: bytes) -> None:
        target = Path(path)
        draft = _draft(target)
        self.put(str(draft), data)
        try:
            os.link(draft, target)  # fails where the target exists, unlike a rename
        except FileExistsError:
            raise
        except OSError:  # mounted buckets have no links; there, a small file appears whole
            with open(target, "xb") as file:
                file.write(data)
        finally:
            draft.unlink()

    def remove(self, path: str) -> None:
        """Removes a file, and up to two folders above it that this leaves empty."""
        target = Path(path)
        target.unlink(missing_ok=True)
        for parent in list(target.parents)[:2]:
            try:
                parent.rmdir()
            except OSError:  # not empty, or removed by another process
                return


def list_folder(path: str, *, is_root: bool) -> list[File | str]:
    """Lists the files of a folder and the paths of its folders, in the order of their paths.

    Returns nothing where there is no folder. Entries that vanish meanwhile are left out. Symbolic
    links stand for their targets, under their own names: a broken one is a file without an etag,
    and one that leads to a folder around it is left out, since all below it has other names.

    Args:
        is_root: False for a folder found in another one. Of those, hidden ones and those that a
            system keeps on each disk for itself may be closed to this user.
    """
    entries: list[tuple[str, File | str]] = []
    try:
        absence = _absence_as_not_found(path)
        with contextlib.suppress(FileNotFoundError), absence, os.scandir(path) as found:
            for each in found:
                entry = _entry(each)
                if isinstance(entry, File):
                    entries.append((each.name, entry))
                elif entry is not None:
                    entries.append((f"{each.name}/", entry))
    except PermissionError:
        if is_root or not _SYSTEM_FOLDER.match(os.path.basename(path)):
            raise
    return [entry for _, entry in sorted(entries, key=lambda named: named[0])]


def _entry(entry: "os.DirEntry[str]") -> File | str | None:
    """Returns a file, the path of a folder, or None for anything else."""
    try:
        with _absence_as_not_found(entry.path):
            status = entry.stat()
    except FileNotFoundError:
        is_broken_link = entry.is_symlink() and os.path.lexists(entry.path)
        return File(uri=local_uri(entry.path), size=0, etag="") if is_broken_link else None
    if not stat.S_ISDIR(status.st_mode):
        return _file(entry.path, status)
    return None if entry.is_symlink() and _is_inside(entry.path, status) else entry.path


def _is_inside(path: str, folder: os.stat_result) -> bool:
    """True if a path leads through a folder, under whatever names."""
    return any(os.path.samestat(os.stat(parent), folder) for parent in Path(path).parents)


def _file(path: str, status: os.stat_result) -> File | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    is_for_all = status.st_mode & _READABLE_BY_ALL == _READABLE_BY_ALL
    return File(
        uri=local_uri(path),
        size=status.st_size,
        etag=_etag(status),
        modified=status.st_mtime,
        may_be_read=is_for_all or os.access(path, os.R_OK),
    )


@contextlib.contextmanager
def _replaced(path: str) -> Iterator[Any]:
    """Opens a file beside another, and puts it in its place once it is on the disk."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # the answer of /proc, which takes no folder
        raise PermissionError(errno.EACCES, "No folder can be made here", path) from error
    beside = _draft(target)
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def remove_drafts(folder: str, *, of: str = "") -> None:
    """Removes what a process that was killed left of files that it was writing below a folder.

    Args:
        of: begin of their names, to leave all others.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            if _DRAFT.fullmatch(name) and name.lstrip(".").startswith(of):
                Path(parent, name).unlink(missing_ok=True)


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _check(file: Any, path: str, etag: str | None) -> None:
    found = _etag(os.fstat(file.fileno()))
    if etag and found != etag:
        raise SourceChanged(
            f"{local_uri(path)} changed since it was listed: etag {found}, planned {etag}"
        )


@contextlib.contextmanager
def _absence_as_not_found(path: str) -> Iterator[None]:
    """Raises FileNotFoundError for every error that means that no disk has such a path."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise FileNotFoundError(error.errno, os.strerror(error.errno or 0), path) from error
    except ValueError as error:
        if "\0" not in path:
            raise
        raise FileNotFoundError(f"{path!r}: a name on a disk has no NUL in it") from error
