"""Lets only the browser in that opened the printed address, and tells it what the page may do.

The token in the address becomes a cookie that scripts cannot read and that other sites cannot send.
A request must come under a name of this server (against DNS rebinding), and one that changes
something from a page of it.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from pipeline.review_page.settings import LOOPBACK, PageSettings

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "maskformer",
}
"""Headers of every response."""

_OPENING_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="refresh" content="0;url=/"><title>Opening</title></head>'
    '<body><p><a href="/">Open the page</a></p></body></html>'
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """The token, and the names under which the server may be asked."""

    token: str
    hosts: frozenset[str]
    """Values of the header Host, in lower case."""
    origins: frozenset[str]
    """Values of the header Origin, in lower case."""
    cookie: str
    """Name of the cookie; cookies of one host are shared by its ports, so that it has the port."""
    is_secure: bool
    """True if browsers use TLS, so that they never send the cookie without it."""

    @classmethod
    def of(cls, page: PageSettings, *, port: int) -> "Access":
        """Returns the access to a server that listens on a port."""
        names = {f"{_bracketed(host)}:{port}" for host in (*LOOPBACK, page.host)}
        if port == 80:
            names |= {_bracketed(host) for host in (*LOOPBACK, page.host)}
        origins = {f"http://{name}" for name in names}
        public = urlsplit(page.public_address) if page.public_address else None
        if public is not None:
            names |= {public.netloc.lower()}
            origins |= {f"{public.scheme}://{public.netloc}".lower()}
        return cls(
            token=page.given_token() or secrets.token_urlsafe(32),
            hosts=frozenset(name.lower() for name in names),
            origins=frozenset(origin.lower() for origin in origins),
            cookie=f"maskformer_page_{port}",
            is_secure=public is not None and public.scheme == "https",
        )

    def is_token(self, given: str | None) -> bool:
        """Compares in a time that does not tell how much was right."""
        return hmac.compare_digest((given or "").encode("utf-8", "replace"), self.token.encode())


def guarded(access: Access) -> Middleware:
    """Returns the middleware that checks every request and completes every response."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = refused_request(request, access) or await handler(request)
        except web.HTTPException as error:
            response = error_response(error.status, error.reason)
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    return check


def refused_request(request: web.Request, access: Access) -> web.Response | None:
    """Returns the answer to a request that must not be served; None where it may be."""
    hosts = request.headers.getall(hdrs.HOST, [])
    if len(hosts) != 1 or hosts[0].lower() not in access.hosts:
        return error_response(421, "this server is not asked under this name")
    origins = [origin.lower() for origin in request.headers.getall(hdrs.ORIGIN, [])]
    if any(origin not in access.origins for origin in origins):
        return error_response(403, "the request comes from another site")
    is_change = request.method not in ("GET", "HEAD")
    if is_change and not origins:
        return error_response(403, "a request that changes something must name its origin")
    is_opening = request.path == "/" and not is_change
    # Any page may link to this one; only this one may load its parts.
    is_foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    if is_foreign and not (is_opening and request.headers.get("Sec-Fetch-Mode") == "navigate"):
        return error_response(403, "the request comes from another site")
    if is_change and request.content_type != "application/json":
        return error_response(415, "the body must be application/json")
    if is_opening and "token" in request.query:
        return _opened(request.query["token"], access)
    if not access.is_token(request.cookies.get(access.cookie)):
        return error_response(
            401, "open the address that the command has printed: it holds the token of this page"
        )
    return None


def error_response(status: int, message: str) -> web.Response:
    """Returns an error as JSON, which no browser takes for a page."""
    response = web.json_response({"error": message}, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def _opened(token: str, access: Access) -> web.Response:
    """Turns the token of the address into a cookie.

    A page that loads `/`, not a redirect: a browser that came by a link of another site does not
    send a Strict cookie along a redirect. The token leaves the address bar and the history's top.
    """
    if not access.is_token(token):
        return error_response(401, "this is not the token of the running page; see its terminal")
    response = web.Response(text=_OPENING_PAGE, content_type="text/html", charset="utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.set_cookie(
        access.cookie,
        access.token,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=access.is_secure,
    )
    return response


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
