"""Answers the page's requests: the routes, their parameters and their errors.

An image_id is always a parameter or in a body, never in a path. What blocks runs in threads; a
request whose browser has gone is taken from their queue.
"""

import asyncio
import hashlib
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from pipeline.corpora.decoding import ImageError
from pipeline.review_page.grid import GridQuery
from pipeline.review_page.index import ScoreRange, UnknownImage
from pipeline.review_page.photographs import PhotographError
from pipeline.review_page.requests import (
    BadRequest,
    flag,
    json_body,
    json_text,
    number,
    required,
    score,
)
from pipeline.review_page.reviewed_state import STATES
from pipeline.review_page.security import Access, error_response, guarded
from pipeline.review_page.submissions import posted_submission
from pipeline.review_page.view import TableView, state_of
from pipeline.reviews.log import DamagedRevision, RevisionTaken
from pipeline.reviews.saving import Conflict
from pipeline.storage import SourceChanged, StorageFault

T = TypeVar("T")

_MOST_BODY_BYTES = 2**25
_MOST_LISTED = 1000
_LONGEST_NAME = 100
_RELOAD_SECONDS = 2.0
_PHOTO_SIDES = (32, 16384)
_THUMBNAIL_SIDES = (32, 1024)
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json",
    ".woff2": "font/woff2", ".wasm": "application/wasm", ".ico": "image/x-icon",
}  # fmt: skip


class PageApi:
    """The routes of the page over a view of a table."""

    def __init__(
        self,
        view: TableView,
        *,
        loaded: "asyncio.Future[None]",
        reviewer: str | None,
        reviewer_header: str | None,
    ) -> None:
        """Takes a view, and what is done when its index is read.

        Args:
            reviewer: the name in saved revisions, where no header names another.
            reviewer_header: the header in which a proxy names the reviewer.
        """
        self._view, self._loaded = view, loaded
        self._reviewer, self._reviewer_header = reviewer, reviewer_header
        # Several, so that a filter need not wait behind forty photographs, nor a save behind both.
        self._answers = ThreadPoolExecutor(4, "answers")
        self._pictures = ThreadPoolExecutor(8, "pictures")
        self._saves = ThreadPoolExecutor(4, "saves")

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
        app.router.add_get("/api/claims", self.claims)
        app.router.add_post("/api/claims", self.claim)
        app.router.add_post("/api/revisions", self.save)
        return app

    def close(self) -> None:
        """Waits for saves and answers in progress; drops what has not begun."""
        for pool in (self._saves, self._answers, self._pictures):
            pool.shutdown(wait=True, cancel_futures=True)

    async def page(self, request: web.Request) -> web.Response:
        if self._loaded.done():
            # A listing of a disk takes less time than this; one of a bucket goes on behind it.
            check = self._in(self._answers, self._view.reload)
            check.add_done_callback(_say_failure)
            await asyncio.wait([check], timeout=_RELOAD_SECONDS)
        return await self._file("index.html")

    async def static(self, request: web.Request) -> web.Response:
        return await self._file(request.match_info["name"])

    async def _file(self, name: str) -> web.Response:
        """Serves a file by its name in a listing: a path of a request never reaches the disk."""
        path = (await self._in(self._answers, static_files)).get(name)
        if path is None:
            return error_response(404, "there is no such file")
        content = await self._in(self._answers, path.read_bytes)
        response = web.Response(body=content, content_type=_TYPES[path.suffix])
        if path.suffix in (".html", ".js", ".mjs", ".css"):
            response.charset = "utf-8"
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        return response

    async def table(self, request: web.Request) -> web.Response:
        reviewer = self._reviewer_of(request)
        return await self._json(lambda: self._view.about(reviewer=reviewer))

    async def images(self, request: web.Request) -> web.Response:
        await asyncio.shield(self._loaded)
        query = self._grid_query(request.query)
        return await self._json(lambda: self._view.images(query))

    async def segments(self, request: web.Request) -> web.Response:
        image_id = required(request.query, "image_id")
        return await self._json(lambda: self._view.image_segments(image_id))

    async def photo(self, request: web.Request) -> web.Response:
        image_id = required(request.query, "image_id")
        side = number(request.query, "size", default=None, bounds=_PHOTO_SIDES)
        return await self._picture(request, lambda: self._view.photo(image_id, longest_side=side))

    async def thumbnail(self, request: web.Request) -> web.Response:
        image_id = required(request.query, "image_id")
        size = number(request.query, "size", default=256, bounds=_THUMBNAIL_SIDES) or 256
        overlay = flag(request.query, "overlay", default=True)
        return await self._picture(
            request, lambda: self._view.thumbnail(image_id, size=size, overlay=overlay)
        )

    async def claims(self, request: web.Request) -> web.Response:
        image_id = required(request.query, "image_id")
        return await self._json(lambda: self._claims_of(image_id))

    async def claim(self, request: web.Request) -> web.Response:
        reviewer = self._saver(request)
        content = json_body(await request.read())
        image_id = content.get("image_id") if isinstance(content, dict) else None
        if not isinstance(image_id, str):
            raise BadRequest("image_id must be text")

        def change() -> dict[str, Any]:
            self._view.now.index.known_place(image_id)
            act = self._view.claims.release if content.get("release") else self._view.claims.make
            act(image_id, reviewer=reviewer)
            return self._claims_of(image_id)

        return await self._json(change)

    def _claims_of(self, image_id: str) -> dict[str, Any]:
        found = self._view.claims.of_image(image_id)
        return {
            "image_id": image_id,
            "claims": [
                {"reviewer": claim.reviewer, "seconds_left": claim.seconds_left} for claim in found
            ],
        }

    async def save(self, request: web.Request) -> web.Response:
        await asyncio.shield(self._loaded)
        reviewer = self._saver(request)
        body = await request.read()

        def answer() -> tuple[int, str]:
            saved = self._view.save(posted_submission(json_body(body)), reviewer=reviewer)
            if isinstance(saved, Conflict):
                return 409, json_text({"theirs": state_of(saved.theirs)})
            content: dict[str, Any] = {
                "image_id": saved.image_id,
                "revision": saved.revision,
                "created_at": saved.created_at.isoformat(),
                "reviewer": saved.reviewer,
                "merged_with": None,
            }
            if saved.merged_with:
                names = [
                    {"revision": each.revision, "reviewer": each.reviewer}
                    for each in saved.merged_with
                ]
                state = state_of(saved)
                content |= {"merged_with": names, "segments": state["segments"],
                            "status": saved.status, "comment": saved.comment}  # fmt: skip
            return 201, json_text(content)

        # Shielded: a browser that goes away, or closes its tab, does not undo half a save.
        status, text = await asyncio.shield(self._in(self._saves, answer))
        return _json_response(text, status=status)

    def _reviewer_of(self, request: web.Request) -> str | None:
        if self._reviewer is None or self._reviewer_header is None:
            return self._reviewer
        named = request.headers.get(self._reviewer_header, "").strip()
        return named[:_LONGEST_NAME] or None

    def _saver(self, request: web.Request) -> str:
        """Returns who saves.

        Raises:
            HTTPForbidden: nobody may.
        """
        reviewer = self._reviewer_of(request)
        if reviewer is None:
            reason = "this page only shows: start `maskformer review` to correct"
            if self._reviewer is not None:
                reason = f"the proxy must name the reviewer in the header {self._reviewer_header}"
            raise web.HTTPForbidden(reason=reason)
        return reviewer

    async def _picture(self, request: web.Request, make: Callable[[], bytes]) -> web.Response:
        await asyncio.shield(self._loaded)
        version = self._view.thumbnail_version(request.query["image_id"])
        digest = hashlib.sha256(f"{request.path_qs} {version}".encode(errors="replace"))
        etag = f'"{digest.hexdigest()[:32]}"'
        headers = {hdrs.CACHE_CONTROL: "private, no-cache", hdrs.ETAG: etag}
        if request.headers.get(hdrs.IF_NONE_MATCH) == etag:
            return web.Response(status=304, headers=headers)
        data = await self._in(self._pictures, make)
        return web.Response(body=data, content_type="image/jpeg", headers=headers)

    async def _json(self, answer: Callable[[], Mapping[str, Any]]) -> web.Response:
        await asyncio.shield(self._loaded)
        return _json_response(await self._in(self._answers, lambda: json_text(answer())))

    def _in(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(pool, call)

    def _grid_query(self, query: Mapping[str, str]) -> GridQuery:
        sorts = self._view.now.grid.sorts
        sort = query.get("sort") or sorts[0]
        if sort not in sorts:
            raise BadRequest(f"sort must be one of {', '.join(sorts)}, got {sort[:40]!r}")
        states = tuple(filter(None, query.get("status", "").split(",")))
        for state in states:
            if state not in STATES:
                raise BadRequest(f"status must be of {', '.join(STATES)}, got {state[:40]!r}")
        return GridQuery(
            sort=sort,
            descending=flag(query, "descending", default=False),
            label_id=self._label_id(query.get("label", "")),
            scores=ScoreRange(score(query, "min_score"), score(query, "max_score")),
            states=states,
            reviewer=query.get("reviewer") or None,
            offset=number(query, "offset", default=0, bounds=(0, 2**40)) or 0,
            limit=number(query, "limit", default=100, bounds=(0, _MOST_LISTED)) or 0,
        )

    def _label_id(self, label: str) -> int | None:
        """Returns the id of a label, given by its name or by its id; None where none is given."""
        labels = self._view.spec.labels
        if not label:
            return None
        if label in labels:
            return labels.index(label)
        if label.isascii() and label.isdecimal() and int(label[:9]) < len(labels):
            return int(label)
        raise BadRequest(f"label must be one of the table's, by name or id, got {label[:40]!r}")


def _say_failure(reloading: "asyncio.Future[bool]") -> None:
    if not reloading.cancelled() and (error := reloading.exception()) is not None:
        print(f"the table could not be read again: {error}", file=sys.stderr, flush=True)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers errors that a request may meet, each with its status and a sentence."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except BadRequest as error:
        return error_response(400, str(error))
    except UnknownImage as error:
        return error_response(404, f"the table has no image {error.args[0]!r} without error")
    except (PhotographError, SourceChanged) as error:
        return error_response(410, str(error))
    except ImageError as error:
        return error_response(422, error.message)
    except (StorageFault, RevisionTaken) as error:
        return error_response(503, f"{error}; nothing is lost: the page sends it again")
    except DamagedRevision as error:
        return error_response(500, f"{error}; see maskformer verify")
    except Exception:
        traceback.print_exc()
        return error_response(500, "the server has met a mistake of its own; see its terminal")


def static_files() -> dict[str, Path]:
    """Lists the files of the page by their names below `static`."""
    return {
        path.relative_to(_STATIC).as_posix(): path
        for path in _STATIC.rglob("*")
        if path.is_file() and path.suffix in _TYPES
    }


def _json_response(text: str, *, status: int = 200) -> web.Response:
    response = web.Response(text=text, status=status, content_type="application/json")
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response
