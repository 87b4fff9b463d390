"""Storage: files on a local disk, S3 or any fsspec URL, read and written whole or in ranges.

Everything else in `pipeline` reaches files through here, so that one place knows which faults pass
(`StorageFault`: try again later) and which are facts (`FileNotFoundError`, `SourceChanged`), how a
write appears whole or not at all, and where credentials are kept out of sight.
"""

import contextlib
import dataclasses
import io
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.storage import http_objects, local_files, places, requests, s3_objects
from pipeline.storage.agreement import agree
from pipeline.storage.faults import FaultKind, SourceChanged, StorageFault, fault_kind
from pipeline.storage.file import File
from pipeline.storage.places import join
from pipeline.storage.protocols import filesystem_of, why_never
from pipeline.storage.range_reader import RangeReader
from pipeline.storage.retries import RetryPolicy, retried

T = TypeVar("T")

_SET_INSTEAD = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"

_exclusive_stores: dict[tuple[str | None, str], bool] = {}
"""By endpoint and bucket: whether only one of many creates an object, as far as it was tried."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How object storage is reached; by default as the AWS variables and files say.

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
    """After so long no further attempt at a request begins."""
    connect_timeout_seconds: float = 10.0
    """How long to wait for a connection."""
    read_timeout_seconds: float = 30.0
    """How long a connection may stand still before the attempt counts as failed."""

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
        """The same, with the AWS variables of this process filled in where nothing was set.

        A job's variables are the driver's alone: what they say has to travel to the workers.
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
        """The fsspec filesystem of a location, and the location's path in it.

        For other libraries to read with: it tries again by itself what fails.
        """
        return self._filesystem(uri, tries_again=True)

    def absolute(self, uri: str) -> str:
        """The location as plans and tables name it: an absolute path, or a URL.

        Raises:
            ValueError: the URL carries credentials, which would end up in tables and logs.
        """
        return places.absolute(uri)

    def files(self, uri: str) -> Iterator[File]:
        """All objects below a prefix, none where it is absent.

        In the order of their locations, as far as a store lists them in it, as Amazon's does.
        """
        fs, path = self._filesystem(uri)
        if requests.is_local(fs):
            yield from self._files_on_disk(fs, path)
        elif requests.is_s3(fs):
            yield from self._files_in_s3(fs, path, uri=uri)
        elif requests.is_http(fs):
            yield from self._files_of_site(fs, path)
        else:
            found = self._retried(lambda: fs.find(path, detail=True), fs=fs, what=f"list {uri}")
            for name, info in sorted(found.items()):
                if info.get("type") == "file":
                    yield requests.file(info, uri=requests.uri_like(uri, root=path, path=name))

    def file(self, uri: str) -> File | None:
        """What a listing would say of one object, None where it is not, or can never be."""
        if why_never(uri):
            return None
        fs, path = self._filesystem(uri)
        try:
            return self._retried(
                lambda: requests.look(fs, path, uri=uri), fs=fs, what=f"look at {uri}"
            )
        except FileNotFoundError:
            return None

    def now(self, uri: str) -> float:
        """Seconds since the epoch by the clock that sets `File.modified` there, if it can be asked.

        That is S3's; of any other store it is this machine's.
        """
        fs, path = self._filesystem(uri)
        if not requests.is_s3(fs):
            return time.time()
        return self._retried(lambda: s3_objects.now(fs, path), fs=fs, what=f"look at {uri}")

    def read(
        self,
        uri: str,
        *,
        etag: str | None = None,
        start: int = 0,
        stop: int | None = None,
        most: int | None = None,
    ) -> bytes:
        """Bytes [start, stop) of an object, all that were asked for or an error.

        Args:
            most: the first so many are enough, where only reading tells how many there are.

        Raises:
            FileNotFoundError: there is no such object, and no etag was given.
            SourceChanged: the object is not the one with that etag.
            StorageFault: the storage failed, after retries.
        """
        fs, path = self._filesystem(uri)
        fetch = partial(requests.get, fs, path, etag=etag, start=start, stop=stop, most=most)
        what = f"read {uri}"
        try:
            data = self._retried(fetch, fs=fs, what=what)
        except FileNotFoundError as error:
            if etag:
                raise SourceChanged(f"{uri} is gone since it was listed") from error
            raise
        if stop is not None and len(data) != stop - start:
            raise StorageFault(f"{what}: got {len(data)} bytes of {stop - start}")
        return data

    def open(self, uri: str, *, etag: str, size: int) -> io.BufferedReader:
        """The object as a seekable file whose every read is checked against the etag."""
        fs, path = self._filesystem(uri)
        if requests.is_local(fs):
            opened = partial(local_files.open_checked, path, etag=etag)
            try:
                return self._retried(opened, fs=fs, what=f"read {uri}")
            except FileNotFoundError as error:
                raise SourceChanged(f"{uri} is gone since it was listed") from error

        def fetch(start: int, stop: int) -> bytes:
            return self.read(uri, etag=etag, start=start, stop=stop)

        return io.BufferedReader(RangeReader(fetch, size=size), 2**16)

    def write(self, uri: str, data: bytes) -> None:
        """Makes an object of the data, whole or not at all, over what was there."""
        fs, path = self._filesystem(uri, tries_again=len(data) > s3_objects.LARGEST_PUT_BYTES)

        def attempt() -> None:
            try:
                requests.put(fs, path, data)
            except FileNotFoundError as error:
                # Another process cleared the folder while we wrote into it.
                raise OSError(f"there is no such place: {error}") from None

        try:
            self._retried(attempt, fs=fs, what=f"write {uri}")
        except FileNotFoundError as error:
            raise StorageFault(f"{error}; create the bucket or correct the location") from error

    def write_new(self, uri: str, data: bytes) -> bool:
        """The same, but only where no object is yet; whether the object holds the data now.

        Of several writers at once one wins, whatever the store knows of exclusive creation.
        """
        fs, path = self._filesystem(uri)
        if self._is_exclusive(uri):
            self._retried(lambda: requests.create(fs, path, data), fs=fs, what=f"write {uri}")
        elif self.file(uri) is None:
            self.write(uri, self._agreed(uri, data))
        # Not by what the writing said: an attempt may have arrived whose answer did not.
        return self.read(uri) == data

    def delete(self, uris: Iterable[str]) -> None:
        """Removes objects; those that are gone already do no harm."""
        for uri in uris:
            _, path = self._filesystem(uri)
            if _exclusive_stores.get(self._store(path)) is False:
                # Before the object: who asked in between would make again what was.
                for file in self.files(_ballots(uri)):
                    self._remove(file.uri)
            self._remove(uri)

    def _remove(self, uri: str) -> None:
        fs, path = self._filesystem(uri)
        with contextlib.suppress(FileNotFoundError):
            self._retried(partial(requests.remove, fs, path), fs=fs, what=f"remove {uri}")

    def _filesystem(self, uri: str, *, tries_again: bool = False) -> tuple[Any, str]:
        protocol = places.protocol(uri)
        if protocol in places.LOCAL:
            return fsspec.filesystem("file"), places.local_path(uri)
        host, rest = places.split_url(uri)
        if protocol in places.S3:
            options = self._s3_options(attempts=5 if tries_again else 1)
            bucket = host.split("://", 1)[1]
            return fsspec.filesystem("s3", **options), f"{bucket}{rest}".rstrip("/")
        if protocol in places.HTTP:
            return fsspec.filesystem("http", client_kwargs=self._http_options()), uri
        # The host may say what to connect to; what follows is a name.
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

    def _retried(self, action: Callable[[], T], *, fs: Any, what: str) -> T:
        # A key that was given stays what it is; a profile's or a role's may be renewed.
        may_renew = requests.is_s3(fs) and self.key is None and not self.anonymous
        return retried(
            action,
            what=what,
            retry_policy=RetryPolicy(attempts=self.storage_attempts, seconds=self.storage_seconds),
            renew=partial(s3_objects.renew, fs) if may_renew else None,
            hidden=(self.secret, self.token, self.key),
        )

    def _files_on_disk(self, fs: Any, path: str, *, is_asked_for: bool = True) -> Iterator[File]:
        """Folder by folder; one that cannot be read is a fault, and no folder without files."""
        uri = places.local_uri(path)
        list_folder = partial(local_files.folder, path, is_asked_for=is_asked_for)
        entries = self._retried(list_folder, fs=fs, what=f"list {uri}")
        if not entries and (single := self.file(uri)) is not None:
            yield single
        for entry in entries:
            if isinstance(entry, File):
                yield entry
            else:
                yield from self._files_on_disk(fs, entry, is_asked_for=False)

    def _files_of_site(self, fs: Any, url: str) -> Iterator[File]:
        """Those that the pages of a site have links to, from one above to those below."""
        try:
            links = self._retried(lambda: http_objects.links(fs, url), fs=fs, what=f"list {url}")
        except FileNotFoundError:
            links = []
        if not links and (single := self.file(url)) is not None:
            yield single
        for link in links:
            if link.endswith("/"):
                yield from self._files_of_site(fs, link)
            elif (file := self.file(link)) is not None:
                yield file

    def _files_in_s3(self, fs: Any, path: str, *, uri: str) -> Iterator[File]:
        """Page by page: a listing of millions of objects takes no memory.

        Each page is a request of its own, and tried again alone.
        """
        pages = s3_objects.Pages(fs, path)
        found_one = False
        while not pages.are_over:
            for entry in self._retried(pages.next, fs=fs, what=f"list {uri}"):
                found_one = True
                name = entry["name"]
                if not name.endswith("/"):  # what some programs put in place of an empty folder
                    yield requests.file(entry, uri=requests.uri_like(uri, root=path, path=name))
        if not found_one and (single := self.file(uri)) is not None:
            yield single

    def _is_exclusive(self, uri: str) -> bool:
        """Whether the store lets only one of many create an object; tried once in a process."""
        fs, path = self._filesystem(uri)
        if requests.is_local(fs):
            return True
        store = self._store(path)
        if store not in _exclusive_stores:
            _exclusive_stores[store] = self._refuses_a_second(f"{uri}.trial-{uuid.uuid4().hex}")
        return _exclusive_stores[store]

    def _refuses_a_second(self, trial: str) -> bool:
        fs, path = self._filesystem(trial)
        self.write(trial, b"first")
        try:
            was_made = self._retried(
                lambda: requests.create(fs, path, b"second"), fs=fs, what=f"write {trial}"
            )
        except StorageFault as fault:
            # Some refuse the very condition.
            if fault.__cause__ is None or fault_kind(fault.__cause__) != FaultKind.BAD_REQUEST:
                raise
            was_made = True
        with contextlib.suppress(StorageFault):  # one may be allowed to write and not to remove
            self.delete([trial])
        return not was_made

    def _store(self, path: str) -> tuple[str | None, str]:
        return self.endpoint_url, path.split("/")[0]

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
