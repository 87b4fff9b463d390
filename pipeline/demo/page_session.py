"""Asks the review page's server as a browser with the page asks it: with cookie and origin."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

_SECONDS = 60.0


class PageSession:
    """An opened page of `maskformer review`."""

    def __init__(self, address: str) -> None:
        """Opens the address that the command printed: its token becomes a cookie.

        Raises:
            OSError: no server answers there, or it refuses the token.
        """
        # No proxy: the server is on this machine.
        self._opener = build_opener(HTTPCookieProcessor(), ProxyHandler({}))
        self._opener.open(address, timeout=_SECONDS).close()
        self._origin = address.partition("/?")[0]

    def state(self, image_id: str) -> dict[str, Any]:
        """Returns the newest state of an image's segments."""
        address = f"{self._origin}/api/segments?image_id={quote(image_id, safe='')}"
        with self._opener.open(address, timeout=_SECONDS) as answer:
            state: dict[str, Any] = json.load(answer)
        return state

    def save(self, submission: Mapping[str, Any]) -> dict[str, Any]:
        """Saves a state as a revision; returns its number, time and reviewer.

        Raises:
            urllib.error.HTTPError: it breaks a rule, or somebody else has changed the image.
        """
        headers = {"Origin": self._origin, "Content-Type": "application/json"}
        body = json.dumps(submission).encode()
        request = Request(f"{self._origin}/api/revisions", data=body, headers=headers)
        with self._opener.open(request, timeout=_SECONDS) as answer:
            saved: dict[str, Any] = json.load(answer)
        return saved
