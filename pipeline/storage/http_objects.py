"""Objects of HTTP servers, request by request, each tried once.

On the session of an fsspec filesystem, past its own functions: those take any answer for absence,
and refused connections too. Here only 404 and 410 mean absence, and everything else is raised as it
came; `storage.py` retries what may pass.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urljoin

from pipeline.storage.file import File
from pipeline.storage.object_store import ObjectStore, Retry, check_part, etag_of, range_header
from pipeline.storage.sessions import run_coroutine, session_of
from pipeline.storage.uris import split_url

MOST_SKIPPED_BYTES = 2**26
"""The most bytes read and thrown away to reach a part of an object, where a server has no parts."""
_ORIGIN = re.compile("([^:]+://[^/?#]*)(.*)", re.DOTALL)
_ESCAPED = re.compile("%[0-9A-Fa-f]{2}")
_ALLOWED = "/:?@!$&'()*+,;=~"
_BLOCK_BYTES = 2**18
# An answer to HEAD with one of these tells about the server. Any other may be about HEAD alone,
# which many servers do not know, refuse, or sign differently.
_STATUSES_OF_ALL_REQUESTS = (429, 500, 502, 503, 504)


class HttpObjects(ObjectStore):
    """The objects of HTTP servers, which can be read only."""

    def files(self, path: str, *, uri: str, retry: Retry) -> Iterator[File]:
        """Lists what the pages of a site have links to, from the first page downwards."""
        try:
            links = retry(partial(self._links, path), f"list {path}")
        except FileNotFoundError:
            links = []
        # A page without links is an object itself.
        for link in links or [path]:
            if links and link.endswith("/"):
                yield from self.files(link, uri=link, retry=retry)
            else:
                yield from self.single(link, uri=link, retry=retry)

    def info(self, path: str) -> dict[str, Any]:
        """Returns what the server says of an object; `size` is None where it does not say."""

        async def answer() -> dict[str, Any]:
            async with self._answer("HEAD", path) as head:
                if head.status in _STATUSES_OF_ALL_REQUESTS:
                    head.raise_for_status()
                if head.ok and "Content-Length" in head.headers:
                    return _info(head)
            async with self._answer("GET", path, headers={"Range": "bytes=0-0"}) as first:
                if first.status != 416:  # an empty object has no first byte
                    first.raise_for_status()
                return _info(first)

        return {**run_coroutine(self.fs, answer()), "name": path, "type": "file"}

    def get(
        self, path: str, *, etag: str | None, start: int, stop: int | None, most: int | None
    ) -> bytes:
        """Returns bytes [start, stop), as `ObjectStore.get`.

        Raises:
            NoRanges: the server sends objects only whole, and this one is large.
        """
        is_part = bool(start) or stop is not None
        wanted = None if stop is None else stop - start
        if most is not None:
            wanted = most if wanted is None else min(wanted, most)
        if wanted == 0:
            return b""
        headers = {"Range": range_header(start, stop)} if is_part else {}

        async def answer() -> tuple[dict[str, Any], bytes]:
            async with self._answer("GET", path, headers=headers) as response:
                if is_part and response.status == 416:
                    raise EOFError(f"asked for bytes from {start}: the object ends before")
                response.raise_for_status()
                skipped = 0
                if is_part and response.status != 206:
                    skipped = start
                    if start + (wanted or 0) > MOST_SKIPPED_BYTES:
                        raise NoRanges(split_url(path)[0])
                elif is_part:
                    check_part(response.headers.get("Content-Range", ""), start=start)
                data = await _body(response, skipped=skipped, wanted=wanted)
                return _info(response), data

        info, data = run_coroutine(self.fs, answer())
        if stop is not None and most is None and len(data) != stop - start:
            size = info["size"]
            got = f"got {len(data)} bytes of {stop - start}"
            if size is not None and size < stop:
                raise EOFError(f"{got}: the object ends at {size}")
            raise ConnectionError(got)
        # Many servers say less of an object to HEAD than to GET: that alone is no change.
        if etag and etag != etag_of(info):
            self.check(path, etag)
        return data

    def _links(self, url: str) -> list[str]:
        """Returns the URLs below a page that it has links to, sorted."""

        async def answer() -> list[str]:
            async with self._answer("GET", f"{url.rstrip('/')}/") as response:
                response.raise_for_status()
                if response.content_type != "text/html":
                    return []
                page = _Links()
                page.feed(await response.text(errors="replace"))
                base = str(response.url)
                found = {urljoin(base, each).split("#")[0] for each in page.hrefs}
                # A query alone is the page itself in another order of its columns.
                is_below = re.compile(re.escape(base) + "[^?]")
                return sorted(each for each in found if is_below.match(each))

        return run_coroutine(self.fs, answer())

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, *, headers: dict[str, str] | None = None
    ) -> AsyncIterator[Any]:
        import aiohttp  # takes 0.2 s, which a process without HTTP need not spend

        session = await session_of(self.fs)
        # A compressed answer has no ranges, and a size that is not the object's.
        headers = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            address = _request_url(url)
            response = await session.request(method, address, headers=headers, allow_redirects=True)
        except ValueError as error:
            if isinstance(error, aiohttp.RedirectClientError):  # the server sent that address
                raise
            raise FileNotFoundError(f"{url}: no server can have this address: {error}") from error
        async with response:
            yield response


class NoRanges(ValueError):
    """A server that sends objects only whole was asked for a part of a large one."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} does not know Range: it sends files whole or not at all, and at most "
            f"{MOST_SKIPPED_BYTES:,} bytes of one are read over; copy it to a disk or a store"
        )


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _request_url(url: str) -> Any:
    """Returns the URL with everything that no request may hold percent-encoded."""
    import yarl

    found = _ORIGIN.match(url)
    assert found is not None
    origin, path = str(yarl.URL(found[1])).rstrip("/"), found[2].split("#")[0]
    pieces, end = [], 0
    for escaped in _ESCAPED.finditer(path):
        pieces += [quote(path[end : escaped.start()], safe=_ALLOWED), escaped[0]]
        end = escaped.end()
    pieces.append(quote(path[end:], safe=_ALLOWED))
    return yarl.URL(f"{origin}{'' if path.startswith('/') else '/'}{''.join(pieces)}", encoded=True)


def _info(response: Any) -> dict[str, Any]:
    headers = response.headers
    size: str | None = headers.get("Content-Length")
    if "Content-Range" in headers:  # as in "bytes 5-9/10"
        size = headers["Content-Range"].rpartition("/")[2]
    elif headers.get("Content-Encoding", "identity") != "identity":
        size = None
    return {
        "size": int(size) if size is not None and size.isdecimal() else None,
        "ETag": headers.get("ETag"),
    }


async def _body(response: Any, *, skipped: int, wanted: int | None) -> bytes:
    """Reads the body behind the skipped bytes, up to the wanted number of bytes."""
    data = bytearray()
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        data += block[skipped:]
        skipped = max(0, skipped - len(block))
        if wanted is not None and len(data) >= wanted:
            return bytes(data[:wanted])
    return bytes(data)
