"""Storage: files on a local disk, S3 or any fsspec URL, read and written whole or in ranges.

Everything else in `pipeline` reaches files through here, so that one place knows which faults pass
(`StorageFault`: try again later) and which are facts (`FileNotFoundError`, `SourceChanged`), how a
write appears whole or not at all, and where credentials are kept out of sight.
"""

import contextlib
import io
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem

T = TypeVar("T")

_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.2
_SMALLEST_BLOCK_BYTES, _LARGEST_BLOCK_BYTES = 2**17, 2**23
_S3_PROTOCOLS = ("s3", "s3a")


class StorageFault(Exception):
    """The storage did not do its part, after retries. Says nothing about the file's content."""


class SourceChanged(Exception):
    """The object is not the one that was planned: its etag differs, or it is gone."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One object as a listing shows it."""

    uri: str
    size: int
    etag: str
    """As the store gives it; of a local file, size and modification time."""
    modified: float = 0.0
    """Seconds since the epoch, 0 where the store does not say."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How to reach object storage; what is None comes from the usual AWS variables and files.

    Travels to the workers by value and shows no secret when printed.
    """

    endpoint_url: str | None = None
    """URL of an S3 server that is not Amazon's, as `http://127.0.0.1:8333`."""
    region: str | None = None
    key: str | None = field(default=None, repr=False)
    """Access key; rather use AWS_ACCESS_KEY_ID, which no process list shows."""
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    anonymous: bool = False
    """Read public buckets without credentials."""

    def with_environment(self) -> "Storage":
        """The same, with the AWS variables of this process filled in where nothing was set.

        A job's variables are the driver's alone: what they say has to travel to the workers.
        """
        env = os.environ.get
        endpoint = self.endpoint_url or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL")
        own_key = self.key is not None or self.anonymous
        return Storage(
            endpoint_url=endpoint,
            region=self.region or env("AWS_REGION") or env("AWS_DEFAULT_REGION"),
            key=self.key if own_key else env("AWS_ACCESS_KEY_ID"),
            secret=self.secret if own_key else env("AWS_SECRET_ACCESS_KEY"),
            token=self.token if own_key else env("AWS_SESSION_TOKEN"),
            anonymous=self.anonymous,
        )

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """The fsspec filesystem of a location, and the location's path in it."""
        protocol = _protocol(uri)
        if protocol not in _S3_PROTOCOLS:
            return fsspec.core.url_to_fs(uri)
        return fsspec.core.url_to_fs(uri, **self._s3_options())

    def absolute(self, uri: str) -> str:
        """The location as plans and tables name it: an absolute path, or a URL.

        Raises:
            ValueError: the URL carries credentials, which would end up in tables and logs.
        """
        if _protocol(uri) in ("file", "local"):
            path = uri.split("://", 1)[1] if "://" in uri else uri
            return os.path.abspath(os.path.expanduser(path))
        if "@" in urlsplit(uri).netloc:
            raise ValueError(
                f"a location must not carry credentials, got one for {_protocol(uri)}://; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
            )
        return uri.rstrip("/")

    def files(self, uri: str) -> Iterator[File]:
        """All objects below a prefix, in the order of their locations; none where it is absent."""
        fs, path = self.filesystem(uri)
        found = _retried(lambda: fs.find(path, detail=True), what=f"list {uri}")
        for name in sorted(found):
            if found[name].get("type") != "file":
                continue
            with contextlib.suppress(FileNotFoundError):  # it went while we listed
                yield _file(fs, name, found[name], uri=_uri_like(uri, root=path, path=name))

    def file(self, uri: str) -> File | None:
        """What a listing would say of one object, None where it is not."""
        fs, path = self.filesystem(uri)
        try:
            info = _retried(lambda: fs.info(path), what=f"look at {uri}")
        except FileNotFoundError:
            return None
        return _file(fs, path, info, uri=uri) if info.get("type") == "file" else None

    def read(
        self, uri: str, *, etag: str | None = None, start: int = 0, stop: int | None = None
    ) -> bytes:
        """Bytes [start, stop) of an object, all that were asked for or an error.

        Raises:
            FileNotFoundError: there is no such object, and no etag was given.
            SourceChanged: the object is not the one with that etag.
            StorageFault: the storage failed, after retries.
        """
        fs, path = self.filesystem(uri)
        fetch = _fetch_local if isinstance(fs, LocalFileSystem) else _fetch_remote
        try:
            data = _retried(
                lambda: fetch(fs, path, etag=etag, start=start, stop=stop), what=f"read {uri}"
            )
        except FileNotFoundError as error:
            if etag:
                raise SourceChanged(f"{uri} is gone since it was listed") from error
            raise
        if stop is not None and len(data) != stop - start:
            raise StorageFault(f"read {uri}: got {len(data)} bytes of {stop - start}")
        return data

    def open(self, uri: str, *, etag: str, size: int) -> io.BufferedReader:
        """The object as a seekable file whose every read is checked against the etag."""
        fs, path = self.filesystem(uri)
        if isinstance(fs, LocalFileSystem):
            try:
                file = open(path, "rb")  # noqa: SIM115  handed to the caller
            except FileNotFoundError as error:
                raise SourceChanged(f"{uri} is gone since it was listed") from error
            except OSError as error:
                raise StorageFault(f"read {uri}: {error}") from error
            _check_local(file, path, etag)
            return file
        return io.BufferedReader(RangeReader(self, uri, etag=etag, size=size), 2**16)

    def write(self, uri: str, data: bytes) -> None:
        """Makes an object of the data, whole or not at all, over what was there."""
        fs, path = self.filesystem(uri)
        put = _put_local if isinstance(fs, LocalFileSystem) else fs.pipe_file

        def attempt() -> None:
            try:
                put(path, data)
            except FileNotFoundError as error:
                # Another process cleared the folder while we wrote into it; or there is no bucket.
                raise OSError(f"there is no such place: {error}") from error

        _retried(attempt, what=f"write {uri}")

    def write_new(self, uri: str, data: bytes) -> bool:
        """The same, but only where no object is yet; whether the object holds the data now.

        Of several writers at once one wins, if the store knows exclusive creation, as S3 does.
        """
        fs, path = self.filesystem(uri)
        put = _put_new_local if isinstance(fs, LocalFileSystem) else fs.pipe_file
        options = {} if isinstance(fs, LocalFileSystem) else {"mode": "create"}

        def attempt() -> None:
            try:
                put(path, data, **options)
            except FileExistsError:
                return
            except OSError as error:
                if not _is_unmet_condition(error):
                    raise

        _retried(attempt, what=f"write {uri}")
        # Not by what the writing said: an attempt may have arrived whose answer did not.
        return self.read(uri) == data

    def delete(self, uris: Iterable[str]) -> None:
        """Removes objects; those that are gone already do no harm."""
        for uri in uris:
            fs, path = self.filesystem(uri)
            remove = _remove_local if isinstance(fs, LocalFileSystem) else fs.rm_file
            with contextlib.suppress(FileNotFoundError):
                _retried(lambda r=remove, p=path: r(p), what=f"remove {uri}")  # type: ignore[misc]

    def _s3_options(self) -> dict[str, Any]:
        client: dict[str, Any] = {"region_name": self.region} if self.region else {}
        return {
            "anon": self.anonymous,
            "endpoint_url": self.endpoint_url,
            "key": self.key,
            "secret": self.secret,
            "token": self.token,
            "client_kwargs": client,
            # s3fs and `_retried` try again; a third loop inside them would make minutes of seconds.
            "config_kwargs": {"retries": {"max_attempts": 1, "mode": "standard"}},
            # Every plan must see what other processes have just written.
            "use_listings_cache": False,
        }


class RangeReader(io.RawIOBase):
    """A remote object as a seekable raw file, in ranged reads.

    Who reads straight on gets blocks that double in size, and the next one while this one is
    used; who skips about (a walk over an archive's headers) gets small ones and no more.
    """

    def __init__(self, storage: Storage, uri: str, *, etag: str, size: int) -> None:
        super().__init__()
        self._storage, self._uri, self._etag, self._size = storage, uri, etag, size
        self._position = 0
        self._block_start, self._block = 0, b""
        self._block_bytes = _SMALLEST_BLOCK_BYTES
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        if not self._block_start <= self._position < self._block_start + len(self._block):
            self._block_start, self._block = self._position, self._next_block()
        offset = self._position - self._block_start
        chunk = self._block[offset : offset + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _next_block(self) -> bytes:
        ahead, self._ahead = self._ahead, None
        skipped = self._position - (self._block_start + len(self._block))
        if not 0 <= skipped < self._block_bytes:  # a short skip, as over a label map, is no jump
            self._block_bytes = _SMALLEST_BLOCK_BYTES
            return self._fetch(self._position)
        block = b""
        if ahead is not None and ahead[0] <= self._position:
            block = ahead[1].result()[self._position - ahead[0] :]
        if not block:
            block = self._fetch(self._position)
        self._block_bytes = min(2 * self._block_bytes, _LARGEST_BLOCK_BYTES)
        following = self._position + len(block)
        if following < self._size:
            self._ahead = following, self._pool.submit(self._fetch, following)
        return block

    def _fetch(self, start: int) -> bytes:
        stop = min(start + self._block_bytes, self._size)
        return self._storage.read(self._uri, etag=self._etag, start=start, stop=stop)


def join(base: str, *names: str) -> str:
    """A location below another."""
    return "/".join([base.rstrip("/"), *names])


def _protocol(uri: str) -> str:
    return uri.split("://", 1)[0] if "://" in uri else "file"


def _uri_like(uri: str, *, root: str, path: str) -> str:
    """The location of a path that a listing of `uri` gave."""
    if path == root:
        return uri.rstrip("/")
    return join(uri, path[len(root.rstrip("/")) + 1 :])


def _file(fs: Any, path: str, info: dict[str, Any], *, uri: str) -> File:
    if isinstance(fs, LocalFileSystem):
        status = os.stat(path)
        return File(
            uri=uri, size=status.st_size, etag=_local_etag(status), modified=status.st_mtime
        )
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or ""
    modified: Any = info.get("LastModified") or info.get("mtime") or info.get("updated")
    size = int(info.get("size") or 0)
    return File(
        uri=uri,
        size=size,
        # Stores without etags still tell a replaced file by its size and time.
        etag=str(etag).strip('"') or f"{size}-{modified}",
        modified=modified.timestamp() if hasattr(modified, "timestamp") else 0.0,
    )


def _local_etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _check_local(file: Any, path: str, etag: str | None) -> None:
    found = _local_etag(os.fstat(file.fileno()))
    if etag and found != etag:
        raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")


def _fetch_local(fs: Any, path: str, *, etag: str | None, start: int, stop: int | None) -> bytes:
    with open(path, "rb") as file:
        _check_local(file, path, etag)
        file.seek(start)
        data = file.read(-1 if stop is None else stop - start)
        # Once more: it may have been rewritten in place while we read.
        _check_local(file, path, etag)
        return data


def _fetch_remote(fs: Any, path: str, *, etag: str | None, start: int, stop: int | None) -> bytes:
    if "s3" in _protocols(fs):
        return _fetch_s3(fs, path, etag=etag, start=start, stop=stop)
    if etag and _file(fs, path, fs.info(path), uri=path).etag != etag:
        raise SourceChanged(f"{path} changed since it was listed: its etag is not {etag}")
    whole = start == 0 and stop is None
    return fs.cat_file(path) if whole else fs.cat_file(path, start=start, end=stop)


def _fetch_s3(fs: Any, path: str, *, etag: str | None, start: int, stop: int | None) -> bytes:
    """One GET that the server itself holds to the etag: no look before, no race after."""
    bucket, key, _ = fs.split_path(path)
    request: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if start or stop is not None:
        if stop is not None and stop <= start:
            return b""
        request["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    if etag:
        request["IfMatch"] = f'"{etag}"'
    try:
        response = fs.call_s3("get_object", **request)
    except OSError as error:
        if _is_unmet_condition(error):
            raise SourceChanged(f"{path} changed since it was listed: not {etag} now") from error
        raise
    found = str(response.get("ETag", "")).strip('"')
    if etag and found and found != etag:  # a server that ignores IfMatch
        raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")

    async def body() -> bytes:
        async with response["Body"] as stream:
            return await stream.read()

    return sync(fs.loop, body)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _put_local(path: str, data: bytes) -> None:
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


def _put_new_local(path: str, data: bytes) -> None:
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    _put_local(str(draft), data)
    try:
        os.link(draft, target)  # refuses, as a rename does not, where there is something
    except FileExistsError:
        raise
    except OSError:  # mounted buckets have no links; there, a small file is whole or not there
        with open(target, "xb") as file:
            file.write(data)
    finally:
        draft.unlink()


def _is_unmet_condition(error: OSError) -> bool:
    return "pre-conditions" in str(error) or "PreconditionFailed" in str(error)


def _remove_local(path: str) -> None:
    """Removes a file, and the folders that it leaves empty up to the one that keeps others."""
    target = Path(path)
    target.unlink(missing_ok=True)
    for parent in list(target.parents)[:2]:
        try:
            parent.rmdir()
        except OSError:  # not empty, or another process was here first
            return


def _retried(action: Callable[[], T], *, what: str) -> T:
    """The action's result; tried again with growing, random pauses where the fault may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except (FileNotFoundError, SourceChanged, MemoryError):
            raise
        except Exception as error:
            last = attempt == _ATTEMPTS - 1
            if last or isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
                raise StorageFault(f"{what}: {_short(error)}") from error
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
