"""A page's server for tests: the real application on a real port, asked as a browser would."""

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from ports import free_ports
from yarl import URL

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.api import PageApi
from pipeline.review_page.pictures import PictureMaker
from pipeline.review_page.security import Access
from pipeline.review_page.settings import PageSettings, ReviewSettings, ViewSettings
from pipeline.review_page.view import TableView
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class PageClient:
    """A browser at a page; `headers` replace or, with None, remove what it would send."""

    def __init__(self, url: str, access: Access, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.access, self._loop = url, access, loop

    @property
    def opening_address(self) -> str:
        return f"{self.url}/?token={self.access.token}"

    def get(self, path: str, *, headers: Mapping[str, str | None] | None = None, **params: Any):
        return self.ask("GET", path, headers=headers, params=params)

    def post(self, path: str, content: Any, *, headers: Mapping[str, str | None] | None = None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        own = {"Origin": self.url, "Content-Type": "application/json", **(headers or {})}
        return self.ask("POST", path, headers=own, data=body)

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str | None] | None = None,
        params: Mapping[str, Any] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        sent = {"Cookie": f"{self.access.cookie}={self.access.token}", **(headers or {})}
        sent = {name: value for name, value in sent.items() if value is not None}
        asked = self._ask(method, path, headers=sent, params=params, data=data)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(60)

    async def _ask(self, method: str, path: str, **options: Any) -> Answer:
        # Without a jar, and nothing in the path is made proper: tests send what attackers would.
        url = URL(f"{self.url}{path}", encoded=True)
        if options["params"]:
            url = url.update_query({name: str(v) for name, v in options["params"].items()})
        options.pop("params")
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(method, url, allow_redirects=False, **options) as response,
        ):
            return Answer(
                status=response.status, headers=response.headers, body=await response.read()
            )


@contextlib.contextmanager
def opened_page(
    table: str,
    *,
    storage: Storage | None = None,
    reading: ReadSettings | None = None,
    review: ReviewSettings | None = None,
    reviewer: str | None = "ana",
    page: PageSettings | None = None,
    decoder: PictureMaker | None = None,
    **settings: Any,
) -> Iterator[tuple[PageClient, TableView]]:
    """Serves a table in a thread; a `reviewer` of None opens a gallery.

    Args:
        decoder: makes the pictures; by default one that all tests of this process share.
    """
    if review is None and reviewer is not None:
        review = ReviewSettings()
    reading = reading or ReadSettings()
    view = TableView(
        ViewSettings(table=table, **settings), review, storage=storage or Storage(), reading=reading
    )
    view.pictures = decoder or shared_decoder(reading)
    view.load()
    view.now.state.refresh()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[TestServer, PageApi, Access]:
        loaded: asyncio.Future[None] = loop.create_future()
        loaded.set_result(None)
        header = review.reviewer_header if review else None
        api = PageApi(view, loaded=loaded, reviewer=reviewer, reviewer_header=header)
        port = free_ports(1)[0]
        access = Access.of(page or PageSettings(), port=port)
        server = TestServer(api.application(access), port=port)
        await server.start_server()
        return server, api, access

    server, api, access = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield PageClient(f"http://127.0.0.1:{server.port}", access, loop), view
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        api.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@functools.cache
def shared_decoder(reading: ReadSettings) -> PictureMaker:
    """Starts one child process that decodes for all tests; it ends with this one."""
    return PictureMaker(reading, num_children=1)


def submission(state: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns what the page sends to save a state of `GET /api/segments`."""
    return {
        "image_id": state["image_id"],
        "parent_revision": state["revision"],
        "status": "corrected",
        "comment": None,
        "seconds": 2.5,
        "operations": [],
        "segments": [
            {
                name: segment[name]
                for name in ("segment_id", "label", "rle", "origin", "origin_segment_id", "score")
            }
            for segment in state["segments"]
        ],
        **changes,
    }


def with_label(state: Mapping[str, Any], segment_id: int, label: str) -> list[dict[str, Any]]:
    """The segments of a submission in which one has another label."""
    segments = submission(state)["segments"]
    return [
        {**each, "label": label} if each["segment_id"] == segment_id else each for each in segments
    ]
