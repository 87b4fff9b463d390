"""Objects of S3, request by request, each tried once.

On the client of an s3fs filesystem, past its own functions: those retry unseen, and send several
requests where one tells. `storage.py` retries what fails here.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.storage.faults import FaultKind, SourceChanged, fault_kind
from pipeline.storage.file import File
from pipeline.storage.object_store import (
    ObjectStore,
    Retry,
    check_part,
    file_of,
    range_header,
    uri_below,
)
from pipeline.storage.sessions import renew_session, run_coroutine, seconds_to_answer, session_of

_RENEWED_LATELY_SECONDS = 10.0
_SLOWEST_BYTES_PER_SECOND = 2**16
LARGEST_PUT_BYTES = 100 * 2**20
"""Larger objects go in parts; a part that fails is retried by s3fs and botocore."""
_PART_BYTES, _PARTS_AT_ONCE = 2**25, 2
"""Of large files that are read from a disk: memory holds so many parts."""

_renewing = threading.Lock()
_renewed_at: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


class S3Objects(ObjectStore):
    """The objects of an S3 server."""

    def files(self, path: str, *, uri: str, retry: Retry) -> Iterator[File]:
        """Lists page by page: millions of objects take no memory. Each page is retried alone."""
        pages = Pages(self, path)
        found_one = False
        while not pages.are_over:
            for info in retry(pages.next, f"list {uri}"):
                found_one = True
                name = info["name"]
                if not name.endswith("/"):  # some programs write one to mark an empty folder
                    yield file_of(info, uri=uri_below(uri, root=path, path=name))
        if not found_one:
            yield from self.single(path, uri=uri, retry=retry)

    def info(self, path: str) -> dict[str, Any]:
        """Returns what the server says of an object, as an entry of `Pages`."""
        if not self.split(path)[1]:
            raise FileNotFoundError(f"{path} is a bucket and no object")
        try:
            found = self.call("head_object", path)
        except Exception as error:
            # The answer to a HEAD has no body, which would say: expired or denied. A listing does.
            if fault_kind(error) in (FaultKind.DENIED, FaultKind.BAD_REQUEST):
                Pages(self, path).next()
            raise
        return {**found, "name": path, "size": found["ContentLength"], "type": "file"}

    def get(
        self, path: str, *, etag: str | None, start: int, stop: int | None, most: int | None
    ) -> bytes:
        """Returns bytes [start, stop); the server compares the etag, within the one request."""
        if stop is not None and stop <= start:
            return b""
        request: dict[str, Any] = {}
        if start or stop is not None:
            request["Range"] = range_header(start, stop)
        if etag:
            request["IfMatch"] = f'"{etag}"'

        async def answer() -> tuple[dict[str, Any], bytes]:
            response = await self._request("get_object", path, **request)
            async with response["Body"] as stream:
                return response, await stream.read()

        try:
            response, data = run_coroutine(self.fs, answer())
        except Exception as error:
            if fault_kind(error) is FaultKind.UNMET:
                message = f"{path} changed since it was listed: not {etag} now"
                raise SourceChanged(message) from error
            raise
        found = str(response.get("ETag", "")).strip('"')
        if etag and found and found != etag:  # a server that ignores If-Match
            raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")
        _check_length(response, data, start=start, stop=stop, is_range="Range" in request)
        return data

    def put(self, path: str, data: bytes) -> None:
        if len(data) > LARGEST_PUT_BYTES:
            self.fs.pipe_file(path, data)
        else:
            self._put(path, data)

    def put_file(self, path: str, local: str) -> None:
        self.fs.put_file(local, path, chunksize=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def create(self, path: str, data: bytes) -> None:
        try:
            self._put(path, data, IfNoneMatch="*")
        except Exception as error:
            if fault_kind(error) is FaultKind.UNMET:
                raise FileExistsError(f"{path} is there already") from error
            raise

    def remove(self, path: str) -> None:
        """Removes an object; one that does not exist is no error."""
        self.call("delete_object", path)

    def now(self, path: str) -> float:
        answer = self.call("head_bucket", self.split(path)[0])
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def renew(self) -> None:
        """Reads the chain of credentials again: files may have been rewritten, roles renewed.

        Many threads see theirs expire at once; one of them renews for all.
        """
        with _renewing:
            renewed_at = _renewed_at.get(self.fs, -_RENEWED_LATELY_SECONDS)
            if time.monotonic() - renewed_at >= _RENEWED_LATELY_SECONDS:
                renew_session(self.fs)
                _renewed_at[self.fs] = time.monotonic()

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Sends a request of that name about a bucket or an object; returns the answer."""
        return run_coroutine(self.fs, self._request(method, path, **request))

    async def _request(self, method: str, path: str, **request: Any) -> Any:
        client = await session_of(self.fs)
        bucket, key = self.split(path)
        target = {"Bucket": bucket, "Key": key} if key else {"Bucket": bucket}
        return await getattr(client, method)(**target, **request)

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        # The client waits for an answer within bounds, but would send without end.
        limit = seconds_to_answer(self.fs) + len(data) / _SLOWEST_BYTES_PER_SECOND
        request = self._request("put_object", path, Body=data, **condition)
        run_coroutine(self.fs, asyncio.wait_for(request, limit))

    def split(self, path: str) -> tuple[str, str]:
        """Returns bucket and key. The key stays as it is: s3fs would take a version out of it."""
        if path.startswith("arn:"):
            bucket, key, _ = self.fs.split_path(path)
            return bucket, key
        bucket, _, key = path.partition("/")
        return bucket, key


class Pages:
    """The objects below a prefix in the store's order, in pages of up to a thousand.

    A page that failed may be asked for again. A bucket that does not exist has no objects.
    """

    def __init__(self, store: S3Objects, path: str) -> None:
        self._store = store
        self._bucket, key = store.split(path)
        self._request = {"Prefix": f"{key.rstrip('/')}/" if key else ""}
        self.are_over = False

    def next(self) -> list[dict[str, Any]]:
        try:
            page = self._store.call("list_objects_v2", self._bucket, **self._request)
        except Exception as error:
            if fault_kind(error) is not FaultKind.NOT_FOUND:
                raise
            page = {}
        if page.get("IsTruncated"):
            self._request["ContinuationToken"] = page["NextContinuationToken"]
        else:
            self.are_over = True
        return [
            {**each, "name": f"{self._bucket}/{each['Key']}", "size": each["Size"], "type": "file"}
            for each in page.get("Contents", ())
        ]


def _check_length(
    response: dict[str, Any], data: bytes, *, start: int, stop: int | None, is_range: bool
) -> None:
    """Compares the data with what was promised, and the promise with what was asked for."""
    promised = response.get("ContentLength")
    if promised is not None and len(data) != promised:
        raise ConnectionError(f"got {len(data)} bytes of {promised}")
    if not is_range:
        return
    sent = str(response.get("ContentRange") or "")
    check_part(sent, start=start)
    total = sent.rpartition("/")[2]
    size = int(total) if total.isdecimal() else None
    asked = None if stop is None else stop - start
    if asked is not None and size is not None and size < stop:  # type: ignore[operator]
        raise EOFError(f"got {len(data)} bytes of {asked}: the object ends at {size}")
    wanted = asked if asked is not None else None if size is None else size - start
    if wanted is not None and len(data) != wanted:
        raise ConnectionError(f"got {len(data)} bytes of {wanted}")
