"""Storage: files on a local disk, S3 or any fsspec URL, read and written whole or in ranges.

Everything else in `pipeline` reaches files through this module. It alone knows which errors may
pass (`StorageFault`: try again later) and which are facts (`FileNotFoundError`, `SourceChanged`),
how a write appears whole or not at all, and how credentials stay out of messages.
"""

import contextlib
import dataclasses
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.storage import s3_objects, uris
from pipeline.storage.agreement import agree
from pipeline.storage.faults import FaultKind, SourceChanged, StorageFault, fault_kind
from pipeline.storage.file import File
from pipeline.storage.http_objects import HttpObjects
from pipeline.storage.local_files import LocalFiles
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.protocols import filesystem_of, reason_impossible
from pipeline.storage.range_reader import RangeReader
from pipeline.storage.retries import RetryPolicy, retried
from pipeline.storage.s3_objects import S3Objects
from pipeline.storage.uris import join

T = TypeVar("T")

_SET_INSTEAD = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"

_exclusive_stores: dict[tuple[str | None, str], bool] = {}
"""True by endpoint and bucket where only one of many writers creates an object, once tried."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Object storage; by default as the usual AWS variables and files say.

    Travels to the workers by value and shows no secret when printed.
    """

    endpoint_url: str | None = None
    """S3 server that is not Amazon's, as http://127.0.0.1:8333."""
    region: str | None = None
    """Region of the bucket."""
    key: str | None = field(default=None, repr=False)
    """Access key; rather use AWS_ACCESS_KEY_ID. On the command line, which every process list
    shows, it is refused, as `secret` and `token` are."""
    secret: str | None = field(default=None, repr=False)
    """Secret access key; rather use AWS_SECRET_ACCESS_KEY."""
    token: str | None = field(default=None, repr=False)
    """Session token; rather use AWS_SESSION_TOKEN."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    storage_attempts: int = 8
    """Most attempts at one request, where the fault may pass."""
    storage_seconds: float = 300.0
    """Time after which no further attempt at a request begins."""
    connect_timeout_seconds: float = 10.0
    """Longest wait for a connection."""
    read_timeout_seconds: float = 30.0
    """Longest time without data before an attempt counts as failed."""

    def __post_init__(self) -> None:
        for name in (
            "storage_attempts",
            "storage_seconds",
            "connect_timeout_seconds",
            "read_timeout_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")
        if "@" in urlsplit(self.endpoint_url or "").netloc:
            raise ValueError(f"endpoint_url must not carry credentials; {_SET_INSTEAD}")

    def with_environment(self) -> "Storage":
        """Returns these settings with the AWS variables of this process where nothing was set.

        Only the driver has a job's variables; their values must travel to the workers.
        """
        env = os.environ.get
        endpoint = self.endpoint_url or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL")
        own_key = self.key is not None or self.anonymous
        return dataclasses.replace(
            self,
            endpoint_url=endpoint,
            region=self.region or env("AWS_REGION") or env("AWS_DEFAULT_REGION"),
            key=self.key if own_key else env("AWS_ACCESS_KEY_ID"),
            secret=self.secret if own_key else env("AWS_SECRET_ACCESS_KEY"),
            token=self.token if own_key else env("AWS_SESSION_TOKEN"),
        )

    def filesystem(self, uri: str) -> tuple[Any, str]:
        """Returns the fsspec filesystem of a location, and the location's path in it.

        For other libraries to read with: it retries by itself what fails.
        """
        return self._filesystem(uri, retries_itself=True)

    def absolute(self, uri: str) -> str:
        """Returns the location as plans and tables name it: an absolute path, or a URL.

        Raises:
            ValueError: the URL carries credentials, which would end up in tables and logs.
        """
        return uris.absolute(uri)

    def files(self, uri: str) -> Iterator[File]:
        """Lists all objects below a prefix, none where it is absent.

        In the order of their locations, as far as a store lists them in it, as Amazon's does.
        """
        store, path = self._store(uri)
        return store.files(path, uri=uri, retry=partial(self._retried, store))

    def file(self, uri: str) -> File | None:
        """Returns what a listing shows of one object; None where it is absent, or can never be."""
        if reason_impossible(uri):
            return None
        store, path = self._store(uri)
        try:
            return self._retried(store, partial(store.stat, path, uri=uri), f"look at {uri}")
        except FileNotFoundError:
            return None

    def now(self, uri: str) -> float:
        """Returns seconds since the epoch by the clock that sets `File.modified` there.

        That is S3's own clock; of any other store it is this machine's.
        """
        store, path = self._store(uri)
        return self._retried(store, partial(store.now, path), f"look at {uri}")

    def read(
        self,
        uri: str,
        *,
        etag: str | None = None,
        start: int = 0,
        stop: int | None = None,
        most: int | None = None,
    ) -> bytes:
        """Returns bytes [start, stop) of an object, all of them.

        Args:
            most: of an object of unknown size, this many bytes from the start are enough.

        Raises:
            FileNotFoundError: there is no such object, and no etag was given.
            SourceChanged: the object is not the one with that etag.
            StorageFault: the storage failed, after retries.
        """
        store, path = self._store(uri)
        fetch = partial(store.get, path, etag=etag, start=start, stop=stop, most=most)
        what = f"read {uri}"
        try:
            data = self._retried(store, fetch, what)
        except FileNotFoundError as error:
            if etag:
                raise SourceChanged(f"{uri} is gone since it was listed") from error
            raise
        if stop is not None and len(data) != stop - start:
            raise StorageFault(f"{what}: got {len(data)} bytes of {stop - start}")
        return data

    def open(self, uri: str, *, etag: str, size: int) -> io.BufferedReader:
        """Opens an object as a seekable file whose every read is checked against the etag."""
        store, path = self._store(uri)
        if isinstance(store, LocalFiles):
            try:
                return self._retried(store, partial(store.open, path, etag=etag), f"read {uri}")
            except FileNotFoundError as error:
                raise SourceChanged(f"{uri} is gone since it was listed") from error

        def fetch(start: int, stop: int) -> bytes:
            return self.read(uri, etag=etag, start=start, stop=stop)

        return io.BufferedReader(RangeReader(fetch, size=size), 2**16)

    def write(self, uri: str, data: bytes) -> None:
        """Writes an object, whole or not at all, over an existing one."""
        store, path = self._store(uri, retries_itself=len(data) > s3_objects.LARGEST_PUT_BYTES)

        def attempt() -> None:
            try:
                store.put(path, data)
            except FileNotFoundError as error:
                # Another process removed the folder during the write.
                raise OSError(f"there is no such place: {error}") from None

        try:
            self._retried(store, attempt, f"write {uri}")
        except FileNotFoundError as error:
            raise StorageFault(f"{error}; create the bucket or correct the location") from error

    def write_file(self, uri: str, path: str) -> None:
        """Writes a file of this machine as an object, whole or not at all, over an existing one.

        Memory does not grow with the file.
        """
        if os.path.getsize(path) <= s3_objects.LARGEST_PUT_BYTES:
            with open(path, "rb") as file:
                self.write(uri, file.read())
            return
        store, target = self._store(uri, retries_itself=True)
        try:
            self._retried(store, partial(store.put_file, target, path), f"write {uri}")
        except FileNotFoundError as error:
            raise StorageFault(f"{error}; create the bucket or correct the location") from error

    def write_new(self, uri: str, data: bytes) -> bool:
        """Writes an object unless it exists; returns whether it holds the data now."""
        return self.write_once(uri, data) == data

    def write_once(self, uri: str, data: bytes) -> bytes:
        """Writes an object unless it exists; returns what it holds, for good.

        One of several writers at once wins, even on a store without exclusive creation.
        """
        if self._is_exclusive(uri):
            # A refusal does not tell: an answer may have been lost before it, and the data be ours.
            if self._create(uri, data) and uris.protocol(uri) not in uris.LOCAL:
                return data
        elif self.file(uri) is None:
            self.write(uri, self._agreed(uri, data))
        # On a disk too: a mounted bucket creates files that others may write over.
        return self.read(uri)

    def delete(self, locations: Iterable[str]) -> None:
        """Removes objects; those that do not exist are no error."""
        for uri in locations:
            if _exclusive_stores.get(self._endpoint_and_bucket(uri)) is False:
                # Before the object: a writer in between would otherwise write the old value again.
                for file in self.files(_ballots(uri)):
                    self._remove(file.uri)
            self._remove(uri)

    def _remove(self, uri: str) -> None:
        store, path = self._store(uri)
        with contextlib.suppress(FileNotFoundError):
            self._retried(store, partial(store.remove, path), f"remove {uri}")

    def _create(self, uri: str, data: bytes) -> bool:
        """Writes an object unless it exists; returns whether the store says that it did."""
        store, path = self._store(uri)

        def attempt() -> bool:
            try:
                store.create(path, data)
            except FileExistsError:
                return False
            return True

        return self._retried(store, attempt, f"write {uri}")

    def _store(self, uri: str, *, retries_itself: bool = False) -> tuple[ObjectStore, str]:
        """Returns the store of a location, and the location's path in it."""
        protocol = uris.protocol(uri)
        if protocol in uris.LOCAL:
            return LocalFiles(), uris.local_path(uri)
        fs, path = self._filesystem(uri, retries_itself=retries_itself)
        is_s3, is_http = protocol in uris.S3, protocol in uris.HTTP
        return (S3Objects if is_s3 else HttpObjects if is_http else ObjectStore)(fs), path

    def _filesystem(self, uri: str, *, retries_itself: bool = False) -> tuple[Any, str]:
        protocol = uris.protocol(uri)
        if protocol in uris.LOCAL:
            return fsspec.filesystem("file"), uris.local_path(uri)
        host, rest = uris.split_url(uri)
        if protocol in uris.S3:
            options = self._s3_options(attempts=5 if retries_itself else 1)
            bucket = host.split("://", 1)[1]
            return fsspec.filesystem("s3", **options), f"{bucket}{rest}".rstrip("/")
        if protocol in uris.HTTP:
            return fsspec.filesystem("http", client_kwargs=self._http_options()), uri
        # The host may be more than a name; what follows it is one.
        fs, root = filesystem_of(host)
        return fs, f"{root.rstrip('/')}{rest}"

    def _s3_options(self, *, attempts: int) -> dict[str, Any]:
        client: dict[str, Any] = {"region_name": self.region} if self.region else {}
        return {
            "anon": self.anonymous,
            "endpoint_url": self.endpoint_url,
            "key": self.key,
            "secret": self.secret,
            "token": self.token,
            "client_kwargs": client,
            "config_kwargs": {
                "retries": {"total_max_attempts": attempts, "mode": "standard"},
                "connect_timeout": self.connect_timeout_seconds,
                "read_timeout": self.read_timeout_seconds,
            },
            # Every plan must see what other processes have just written.
            "use_listings_cache": False,
        }

    def _http_options(self) -> dict[str, Any]:
        import aiohttp

        return {
            "timeout": aiohttp.ClientTimeout(
                total=None,
                sock_connect=self.connect_timeout_seconds,
                sock_read=self.read_timeout_seconds,
            )
        }

    def _retried(self, store: ObjectStore, action: Callable[[], T], what: str) -> T:
        # A key that was given stays as it is; a profile's or a role's may be renewed.
        may_renew = self.key is None and not self.anonymous
        return retried(
            action,
            what=what,
            retry_policy=RetryPolicy(attempts=self.storage_attempts, seconds=self.storage_seconds),
            renew=store.renew if may_renew else None,
            hidden=(self.secret, self.token, self.key),
        )

    def _is_exclusive(self, uri: str) -> bool:
        """True if only one of many writers can create an object; tried once in a process."""
        if uris.protocol(uri) in uris.LOCAL:
            return True
        bucket = self._endpoint_and_bucket(uri)
        if bucket not in _exclusive_stores:
            _exclusive_stores[bucket] = self._refuses_a_second(f"{uri}.trial-{uuid.uuid4().hex}")
        return _exclusive_stores[bucket]

    def _refuses_a_second(self, trial: str) -> bool:
        self.write(trial, b"first")
        try:
            was_made = self._create(trial, b"second")
        except StorageFault as fault:
            # Some stores refuse the condition itself.
            if fault.__cause__ is None or fault_kind(fault.__cause__) != FaultKind.BAD_REQUEST:
                raise
            was_made = True
        with contextlib.suppress(StorageFault):  # a user may be allowed to write, not to remove
            self.delete([trial])
        return not was_made

    def _endpoint_and_bucket(self, uri: str) -> tuple[str | None, str]:
        return self.endpoint_url, self._store(uri)[1].split("/")[0]

    def _agreed(self, uri: str, data: bytes) -> bytes:
        folder = _ballots(uri)
        try:
            return agree(
                data,
                write=lambda name, value: self.write(join(folder, name), value),
                read=lambda name: self.read(join(folder, name)),
                names=lambda: [file.uri.rsplit("/", 1)[1] for file in self.files(folder)],
            )
        except FileNotFoundError as error:
            raise StorageFault(f"write {uri}: it was removed meanwhile") from error


def _ballots(uri: str) -> str:
    return f"{uri}.ballots"
