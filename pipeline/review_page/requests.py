"""Reads the parameters of requests, and names what is wrong with them."""

import json
import math
from collections.abc import Mapping
from typing import Any


class BadRequest(ValueError):
    """A request is malformed; the message says what must hold."""


def required(query: Mapping[str, str], name: str) -> str:
    """Returns a parameter that must be given."""
    if not query.get(name):
        raise BadRequest(f"the parameter {name} is missing")
    return query[name]


def number(
    query: Mapping[str, str], name: str, *, default: int | None, bounds: tuple[int, int]
) -> int | None:
    """Returns a whole number within bounds; the default where none is given."""
    text = query.get(name, "")
    if not text:
        return default
    low, high = bounds
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a whole number in [{low}, {high}], got {text[:40]!r}")
    return int(text)


def score(query: Mapping[str, str], name: str) -> float | None:
    """Returns a number in [0, 1]; None where none is given."""
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


def flag(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Returns a yes or no, written as 1 or 0, true or false."""
    text = query.get(name, "")
    if text not in ("", "0", "1", "true", "false"):
        raise BadRequest(f"{name} must be 0 or 1, got {text[:40]!r}")
    return text in ("1", "true") if text else default


def json_body(data: bytes) -> Any:
    """Parses a body.

    Raises:
        BadRequest: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body must be JSON: {str(error)[:100]}") from None


def json_text(content: Mapping[str, Any]) -> str:
    """Writes JSON that any parser takes, without NaN."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
