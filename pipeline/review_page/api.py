"""Answers the page's requests: the routes, their parameters and their errors.

An image_id is always a parameter or in a body, never in a path. What blocks runs in threads; a
request whose browser has gone is taken from their queue.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from pipeline.corpora.decoding import ImageError
from pipeline.review_page.index import Range
from pipeline.review_page.photographs import PhotographError
from pipeline.review_page.security import Access, error_response, guarded
from pipeline.review_page.view import Listed, TableView
from pipeline.storage import SourceChanged, StorageFault

T = TypeVar("T")

_MOST_BODY_BYTES = 2**25
_MOST_LISTED = 1000
_SIDES = (32, 8192)
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json",
    ".woff2": "font/woff2", ".wasm": "application/wasm", ".ico": "image/x-icon",
}  # fmt: skip


class BadRequest(ValueError):
    """A request is malformed; the message says what must hold."""


class PageApi:
    """The routes of the page over a view of a table."""

    def __init__(self, view: TableView, *, loaded: Awaitable[None]) -> None:
        """Takes a view, and what is done when its index is read."""
        self._view, self._loaded = view, asyncio.ensure_future(loaded)
        # Of its own, so that a filter need not wait behind forty photographs.
        self._answers = ThreadPoolExecutor(4, "answers")
        self._pictures = ThreadPoolExecutor(8, "pictures")

    def application(self, access: Access) -> web.Application:
        """Returns the application with all routes."""
        app = web.Application(
            middlewares=[guarded(access), _errors], client_max_size=_MOST_BODY_BYTES
        )
        app.router.add_get("/", self.page)
        app.router.add_get("/static/{name:.+}", self.static)
        app.router.add_get("/api/table", self.table)
        app.router.add_get("/api/images", self.images)
        app.router.add_get("/api/segments", self.segments)
        app.router.add_get("/api/photo", self.photo)
        app.router.add_get("/api/thumbnail", self.thumbnail)
        return app

    def close(self) -> None:
        """Waits for the threads; requests that have not begun are dropped."""
        for pool in (self._answers, self._pictures):
            pool.shutdown(wait=True, cancel_futures=True)

    async def page(self, request: web.Request) -> web.Response:
        return await self._file("index.html")

    async def static(self, request: web.Request) -> web.Response:
        return await self._file(request.match_info["name"])

    async def _file(self, name: str) -> web.Response:
        """Serves a file by its name in a listing: a path of a request never reaches the disk."""
        files = await self._answered(static_files)
        path = files.get(name)
        if path is None:
            return error_response(404, "there is no such file")
        response = web.Response(
            body=await self._answered(path.read_bytes), content_type=_TYPES[path.suffix]
        )
        if path.suffix in (".html", ".js", ".mjs", ".css"):
            response.charset = "utf-8"
        response.headers["Cache-Control"] = "no-cache"
        return response

    async def table(self, request: web.Request) -> web.Response:
        reviewer = None
        return await self._json(lambda: self._view.about(reviewer=reviewer))

    async def images(self, request: web.Request) -> web.Response:
        await asyncio.shield(self._loaded)
        wanted = self._wanted(request.query)
        return await self._json(lambda: self._view.listed(wanted))

    async def segments(self, request: web.Request) -> web.Response:
        image_id = _required(request.query, "image_id")
        return await self._json(lambda: self._view.image_segments(image_id))

    async def photo(self, request: web.Request) -> web.Response:
        image_id = _required(request.query, "image_id")
        size = _number(request.query, "size", default=None, bounds=_SIDES)
        return await self._picture(request, lambda: self._view.photo(image_id, longest_side=size))

    async def thumbnail(self, request: web.Request) -> web.Response:
        image_id = _required(request.query, "image_id")
        size = _number(request.query, "size", default=256, bounds=(32, 1024))
        overlay = request.query.get("overlay", "1") == "1"
        return await self._picture(
            request,
            lambda: self._view.thumbnail(image_id, size=size or 256, overlay=overlay),
        )

    async def _picture(self, request: web.Request, make: Callable[[], bytes]) -> web.Response:
        await asyncio.shield(self._loaded)
        data = await asyncio.get_running_loop().run_in_executor(self._pictures, make)
        response = web.Response(body=data, content_type="image/jpeg")
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    async def _json(self, answer: Callable[[], Mapping[str, Any]]) -> web.Response:
        await asyncio.shield(self._loaded)
        text = await self._answered(lambda: json_text(answer()))
        response = web.Response(text=text, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _answered(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._answers, call)

    def _wanted(self, query: Mapping[str, str]) -> Listed:
        sorts = self._view.sorts()
        sort = query.get("sort") or sorts[0]
        if sort not in sorts:
            raise BadRequest(f"sort must be one of {', '.join(sorts)}, got {sort}")
        return Listed(
            sort=sort,
            descending=query.get("descending", "0") in ("1", "true"),
            label_id=self._label_id(query.get("label", "")),
            scores=Range(_score(query, "min_score"), _score(query, "max_score")),
            status=tuple(filter(None, query.get("status", "").split(","))),
            reviewer=query.get("reviewer") or None,
            offset=_number(query, "offset", default=0, bounds=(0, 2**40)) or 0,
            limit=_number(query, "limit", default=100, bounds=(0, _MOST_LISTED)) or 0,
        )

    def _label_id(self, label: str) -> int | None:
        """Returns the id of a label, given by its name or by its id; None where none is given."""
        labels = self._view.spec.labels
        if not label:
            return None
        if label in labels:
            return labels.index(label)
        if label.isascii() and label.isdecimal() and int(label) < len(labels):
            return int(label)
        raise BadRequest(f"label must be a label of the table, by name or id, got {label!r}")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers errors that a request may meet, each with its status and a sentence."""
    try:
        return await handler(request)
    except BadRequest as error:
        return error_response(400, str(error))
    except KeyError as error:
        return error_response(404, f"the table has no image {error.args[0]!r} without error")
    except (PhotographError, SourceChanged) as error:
        return error_response(410, str(error))
    except ImageError as error:
        return error_response(422, error.message)
    except StorageFault as error:
        return error_response(503, str(error))


def static_files() -> dict[str, Path]:
    """Lists the files of the page by their names below `static`."""
    folder = _STATIC
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in _TYPES
    }


def json_text(content: Mapping[str, Any]) -> str:
    """Writes JSON that any parser takes, without NaN."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _required(query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        raise BadRequest(f"the parameter {name} is missing")
    return query[name]


def _number(
    query: Mapping[str, str], name: str, *, default: int | None, bounds: tuple[int, int]
) -> int | None:
    text = query.get(name, "")
    if not text:
        return default
    low, high = bounds
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a whole number in [{low}, {high}], got {text[:40]!r}")
    return int(text)


def _score(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise BadRequest(f"{name} must be a number in [0, 1], got {text[:40]!r}")
    return value
