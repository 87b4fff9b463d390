"""Sends a small JSON message to the URL in an environment variable.

The URL may hold a secret: neither it nor an error text that may quote it is ever shown.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pipeline.nightly.settings import ReportSettings

_ATTEMPTS = 3
_FIRST_WAIT_SECONDS = 0.5
_MOST_CHARACTERS = 3000


def send(text: str, *, settings: ReportSettings) -> str | None:
    """Sends `{"text": …}`, the format of Slack. Returns a line with the outcome; never raises.

    Returns None if no webhook is configured.
    """
    if settings.webhook_variable is None:
        return None
    url = os.environ.get(settings.webhook_variable, "").strip()
    if not url:
        return f"webhook: not sent, {settings.webhook_variable} is not set"
    try:
        is_web = urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname
    except ValueError:
        is_web = False
    if not is_web:
        return f"webhook: not sent, {settings.webhook_variable} holds no http or https URL"
    body = json.dumps({"text": _for_slack(text)}).encode()
    fault = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        fault, may_pass = _post(url, body, seconds=settings.webhook_seconds)
        if not fault:
            return "webhook: sent"
        if not may_pass:
            break
    return f"webhook: could not be sent, {fault}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the message is for the configured host only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(url: str, body: bytes, *, seconds: float) -> tuple[str, bool]:
    """Returns the fault, empty on success, and whether another attempt may succeed."""
    try:
        request = urllib.request.Request(
            url, body, {"Content-Type": "application/json; charset=utf-8"}, method="POST"
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds) as answer:
            answer.read(1)
            return "", False
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}", error.code == 429 or error.code >= 500
    except (OSError, http.client.HTTPException, ValueError) as error:
        # Its text may quote the URL; its kind does not.
        kind = error.reason if isinstance(error, urllib.error.URLError) else error
        return type(kind).__name__, not isinstance(error, ValueError)


def _for_slack(text: str) -> str:
    """Escapes names of the corpus, so that they neither mention anybody nor link anywhere."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
