"""Renders the HTML templates of reports; every value that is not markup is escaped.

A page stands alone, to be opened or mailed: it has no scripts and no links to other files.
"""

import base64
import re
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

# HTML has no place for control characters, and those of direction would disguise a name.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def page_environment(package: str) -> Environment:
    """Returns the templates of a package, which extend `page.html`, and their filters."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipeline.runtime")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
    )
    found.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "integer": "{:,}".format,
        "score": lambda value: "" if value is None else f"{value:.3f}",
        "share": lambda value: "" if value is None else f"{value:.1%}",
        "short": _short,
    }
    return found


def _visible(value: Any) -> Any:
    """Replaces characters that would be invisible; markup is made of cleaned values already."""
    if value is None or hasattr(value, "__html__"):
        return value or ""
    return _UNSEEN.sub("\ufffd", str(value))


def _short(text: str, most: int = 200) -> str:
    """Cuts the middle out of a text of more than `most` characters."""
    end = most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"
