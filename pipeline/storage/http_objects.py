"""Objects of HTTP servers, request by request: look, get and list, each tried once.

On the session of an fsspec filesystem, past its own functions: those take whatever a server answers
for absence, and refused connections too. Here 404 and 410 are, and everything else is raised as it
came; `storage.py` tries again what may pass.
"""

import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import quote, urljoin

from fsspec.asyn import sync

from pipeline.storage.places import split_url

T = TypeVar("T")

MOST_READ_OVER_BYTES = 2**26
"""How much of an object is read and thrown away for a part of it, where a server has no parts."""
_ORIGIN = re.compile("([^:]+://[^/?#]*)(.*)", re.DOTALL)
_ESCAPED = re.compile("%[0-9A-Fa-f]{2}")
_ALLOWED = "/:?@!$&'()*+,;=~"
_BLOCK_BYTES = 2**18
# An answer to HEAD that says how the server does; any other may be of HEAD alone, which many do not
# know, refuse, or sign differently.
_STATUSES_OF_ALL_REQUESTS = (429, 500, 502, 503, 504)


def look(fs: Any, url: str) -> dict[str, Any]:
    """What the server says of an object, without its content.

    `size` is None where it does not say.
    """

    async def answer() -> dict[str, Any]:
        async with _answer(fs, "HEAD", url) as head:
            if head.status in _STATUSES_OF_ALL_REQUESTS:
                head.raise_for_status()
            if head.ok and "Content-Length" in head.headers:
                return _info(head)
        async with _answer(fs, "GET", url, headers={"Range": "bytes=0-0"}) as first:
            if first.status != 416:  # an empty object has no first byte
                first.raise_for_status()
            return _info(first)

    return {**_run(fs, answer()), "name": url, "type": "file"}


def get(
    fs: Any, url: str, *, start: int = 0, stop: int | None = None, most: int | None = None
) -> tuple[dict[str, Any], bytes]:
    """Bytes [start, stop) of an object, at most `most`, and what the server says of it.

    Raises:
        EOFError: the object ends before `stop`.
        ConnectionError: less came than the server had promised.
        NoRanges: the server has the object whole or not at all, and it is large.
    """
    is_part = bool(start) or stop is not None
    wanted = None if stop is None else stop - start
    if most is not None:
        wanted = most if wanted is None else min(wanted, most)
    if wanted == 0:
        return {}, b""
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if is_part else {}

    async def answer() -> tuple[dict[str, Any], bytes]:
        async with _answer(fs, "GET", url, headers=headers) as response:
            if is_part and response.status == 416:
                raise EOFError(f"asked for bytes from {start}: the object ends before")
            response.raise_for_status()
            skipped = 0
            if is_part and response.status != 206:
                skipped = start
                if start + (wanted or 0) > MOST_READ_OVER_BYTES:
                    raise NoRanges(split_url(url)[0])
            elif is_part:
                _check_part(response.headers.get("Content-Range", ""), start=start)
            data = await _body(response, skipped=skipped, wanted=wanted)
            return _info(response), data

    info, data = _run(fs, answer())
    if stop is not None and most is None and len(data) != stop - start:
        size = info["size"]
        if size is not None and size < stop:
            raise EOFError(f"got {len(data)} bytes of {stop - start}: the object ends at {size}")
        raise ConnectionError(f"got {len(data)} bytes of {stop - start}")
    return info, data


def links(fs: Any, url: str) -> list[str]:
    """The URLs below a page that it has links to, each once, in their order."""

    async def answer() -> list[str]:
        async with _answer(fs, "GET", f"{url.rstrip('/')}/") as response:
            response.raise_for_status()
            if response.content_type != "text/html":
                return []
            page = _Links()
            page.feed(await response.text(errors="replace"))
            base = str(response.url)
            found = {urljoin(base, each).split("#")[0] for each in page.hrefs}
            # Not the page itself in another order of its columns.
            is_below = re.compile(re.escape(base) + "[^?]")
            return sorted(each for each in found if is_below.match(each))

    return _run(fs, answer())


class NoRanges(ValueError):
    """A server that has objects whole or not at all was asked for a part of a large one."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} does not know Range: it sends files whole or not at all, and at most "
            f"{MOST_READ_OVER_BYTES:,} bytes of one are read over; copy it to a disk or a store"
        )


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


@asynccontextmanager
async def _answer(
    fs: Any, method: str, url: str, *, headers: dict[str, str] | None = None
) -> AsyncIterator[Any]:
    import aiohttp  # takes a fifth of a second, which a process without HTTP need not spend

    session = await fs.set_session()
    # What is compressed on the way has no ranges, and a size that is not the object's.
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        address = _request_url(url)
        response = await session.request(method, address, headers=headers, allow_redirects=True)
    except ValueError as error:
        if isinstance(error, aiohttp.RedirectClientError):  # that was what the server said
            raise
        raise FileNotFoundError(f"{url}: no server can have this address: {error}") from error
    async with response:
        yield response


def _request_url(url: str) -> Any:
    """The URL with what no request may hold in per cent, and all else as it is."""
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
    """What follows the first bytes, so many or all."""
    data = bytearray()
    async for block in response.content.iter_chunked(_BLOCK_BYTES):
        data += block[skipped:]
        skipped = max(0, skipped - len(block))
        if wanted is not None and len(data) >= wanted:
            return bytes(data[:wanted])
    return bytes(data)


def _check_part(sent: str, *, start: int) -> None:
    if not sent.removeprefix("bytes ").startswith(f"{start}-"):
        raise ConnectionError(f"asked for bytes from {start}, got {sent or 'others'}")


def _run(fs: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    async def run() -> T:
        return await coroutine

    return sync(fs.loop, run)
