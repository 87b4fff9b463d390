"""S3's requests, one by one: get, put, look, list and remove, each tried once.

On the client of an s3fs filesystem, past its own functions: those try again by themselves, unseen,
and ask more than once for what one request tells. `storage.py` tries again what fails here.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Coroutine
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from fsspec.asyn import sync

from pipeline.storage.faults import FaultKind, SourceChanged, fault_kind

T = TypeVar("T")

_RENEWED_LATELY_SECONDS = 10.0
_SLOWEST_BYTES_PER_SECOND = 2**16
LARGEST_PUT_BYTES = 100 * 2**20
"""More than this goes in parts; a part that fails is tried again by s3fs and botocore."""


def get(fs: Any, path: str, *, etag: str | None, start: int, stop: int | None) -> bytes:
    """Bytes [start, stop), of the object with that etag: the server itself holds one GET to it.

    Raises:
        SourceChanged: the object there is another one.
        EOFError: the object ends before `stop`.
        ConnectionError: less came than the server had promised.
    """
    if stop is not None and stop <= start:
        return b""
    request: dict[str, Any] = {}
    if start or stop is not None:
        request["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    if etag:
        request["IfMatch"] = f'"{etag}"'

    async def answer() -> tuple[dict[str, Any], bytes]:
        response = await _call(fs, "get_object", path, **request)
        async with response["Body"] as stream:
            return response, await stream.read()

    try:
        response, data = _run(fs, answer())
    except Exception as error:
        if fault_kind(error) is FaultKind.UNMET:
            raise SourceChanged(f"{path} changed since it was listed: not {etag} now") from error
        raise
    found = str(response.get("ETag", "")).strip('"')
    if etag and found and found != etag:  # a server that ignores If-Match
        raise SourceChanged(f"{path} changed since it was listed: etag {found}, planned {etag}")
    _check_length(response, data, start=start, stop=stop, is_range="Range" in request)
    return data


def put(fs: Any, path: str, data: bytes, *, only_new: bool = False) -> None:
    """Makes the object, whole or not at all.

    Raises:
        FileExistsError: it was to be new, and is not.
    """
    if len(data) > LARGEST_PUT_BYTES and not only_new:
        fs.pipe_file(path, data)
        return
    condition = {"IfNoneMatch": "*"} if only_new else {}
    # The client has a limit for waiting to be answered, and none for a server that does not listen.
    limit = sum(_timeouts(fs)) + len(data) / _SLOWEST_BYTES_PER_SECOND

    async def answer() -> None:
        await asyncio.wait_for(_call(fs, "put_object", path, Body=data, **condition), limit)

    try:
        _run(fs, answer())
    except Exception as error:
        if only_new and fault_kind(error) is FaultKind.UNMET:
            raise FileExistsError(f"{path} is there already") from error
        raise


def look(fs: Any, path: str) -> dict[str, Any]:
    """What the store says of an object, without its content; as an entry of `Pages`."""
    try:
        found = _run(fs, _call(fs, "head_object", path))
    except Exception as error:
        # The answer to a HEAD has no body and so no reason: expired or denied. A listing tells.
        if fault_kind(error) in (FaultKind.DENIED, FaultKind.BAD_REQUEST):
            Pages(fs, path).next()
        raise
    return {**found, "name": path, "size": found["ContentLength"], "type": "file"}


class Pages:
    """The objects below a prefix in the store's order, a page of up to a thousand at a time.

    A page that failed may be asked for again; where there is no bucket, none has anything.
    """

    def __init__(self, fs: Any, path: str) -> None:
        bucket, key = _split(fs, path)
        self._fs, self._bucket = fs, bucket
        self._request = {"Prefix": f"{key.rstrip('/')}/" if key else ""}
        self.are_over = False

    def next(self) -> list[dict[str, Any]]:
        try:
            page = _run(self._fs, _call(self._fs, "list_objects_v2", self._bucket, **self._request))
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


def now(fs: Any, path: str) -> float:
    """Seconds since the epoch by the server's clock."""
    bucket, _ = _split(fs, path)
    answer = _run(fs, _call(fs, "head_bucket", bucket))
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()


def remove(fs: Any, path: str) -> None:
    """Removes an object; one that is not there does no harm."""
    _run(fs, _call(fs, "delete_object", path))


def renew(fs: Any) -> None:
    """Asks the chain of credentials once more: files may have been rewritten, roles renewed.

    Many threads find out at once that theirs have expired; one renews for all.
    """
    with _renewing:
        if time.monotonic() - _renewed_at.get(fs, -_RENEWED_LATELY_SECONDS) < (
            _RENEWED_LATELY_SECONDS
        ):
            return
        sync(fs.loop, fs.set_session, refresh=True)
        _renewed_at[fs] = time.monotonic()


_renewing = threading.Lock()
_renewed_at: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


async def _call(fs: Any, method: str, path: str, **request: Any) -> Any:
    client = await fs.set_session()
    bucket, key = _split(fs, path)
    place = {"Bucket": bucket, "Key": key} if key else {"Bucket": bucket}
    return await getattr(client, method)(**place, **request)


def _split(fs: Any, path: str) -> tuple[str, str]:
    """Bucket and key, which is a name and no language: s3fs takes a version out of it."""
    if path.startswith("arn:"):
        bucket, key, _ = fs.split_path(path)
        return bucket, key
    bucket, _, key = path.partition("/")
    return bucket, key


def _run(fs: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    async def run() -> T:
        return await coroutine

    return sync(fs.loop, run)


def _timeouts(fs: Any) -> tuple[float, float]:
    return fs.config_kwargs["connect_timeout"], fs.config_kwargs["read_timeout"]


def _check_length(
    response: dict[str, Any], data: bytes, *, start: int, stop: int | None, is_range: bool
) -> None:
    """Compares what came with what was promised, and what was promised with what was asked for."""
    promised = response.get("ContentLength")
    if promised is not None and len(data) != promised:
        raise ConnectionError(f"got {len(data)} bytes of {promised}")
    if not is_range:
        return
    # As in "bytes 5-9/10".
    sent, _, total = str(response.get("ContentRange") or "").removeprefix("bytes ").partition("/")
    if not sent.startswith(f"{start}-"):
        raise ConnectionError(f"asked for bytes from {start}, got {sent or 'others'}")
    size = int(total) if total.isdecimal() else None
    asked = None if stop is None else stop - start
    if asked is not None and size is not None and size < stop:  # type: ignore[operator]
        raise EOFError(f"got {len(data)} bytes of {asked}: the object ends at {size}")
    wanted = asked if asked is not None else None if size is None else size - start
    if wanted is not None and len(data) != wanted:
        raise ConnectionError(f"got {len(data)} bytes of {wanted}")
