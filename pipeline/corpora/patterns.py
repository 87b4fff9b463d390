"""Matches locations against patterns with wildcards, as shells do.

`*` and `?` stand for any characters and any single one but `/`, `[ab]`, `[0-9]` and `[!a]` for one
of a set, `**` for folders at any depth, `{a,b}` and `{000..010}` for each of a list. A folder that
matches stands for all its content.
"""

import re
from dataclasses import dataclass

from pipeline.storage import Storage

_WILDCARD = re.compile(r"[*?\[{]")
_LONGEST_RANGE = 100_000
_PARTS = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<stars>\*+)|(?P<one>\?)"
    r"|\[(?P<set>!?\]?[^\]/]*)\]|\{(?P<first>\d+)\.\.(?P<last>\d+)\}|\{(?P<list>[^{}]*,[^{}]*)\}"
    r"|(?P<text>.)",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A location with wildcards."""

    root: str
    """The folder above the first name with a wildcard."""
    regex: re.Pattern[str]

    def matches(self, uri: str) -> bool:
        """True if the pattern matches the object's location or a folder above it."""
        return self.regex.fullmatch(uri) is not None


def pattern_of(location: str, *, storage: Storage) -> Pattern | None:
    """Parses a location; None where it has no wildcards, or is the name of a real folder.

    Raises:
        ValueError: the pattern leaves no folder to list.
    """
    # An HTTP server lists nothing, and a ? begins a query there.
    if not _WILDCARD.search(location) or location.startswith(("http://", "https://")):
        return None
    if next(storage.files(location), None) is not None:
        return None
    before, _, _ = location.partition(_WILDCARD.findall(location)[0])
    root = before.rpartition("/")[0]
    if not root or root.endswith((":/", ":")):
        raise ValueError(
            f"a pattern needs a folder or a bucket before its first wildcard, got {location}"
        )
    below = location.removeprefix(f"{root}/")
    try:
        regex = re.compile(f"{re.escape(root)}/{_regex(below)}(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise ValueError(f"{location} is no pattern: {error}") from error
    return Pattern(root=root, regex=regex)


def _regex(pattern: str) -> str:
    return "".join(_regex_of(part) for part in _PARTS.finditer(pattern))


def _regex_of(part: re.Match[str]) -> str:
    if part["folders"]:
        return "(?:[^/]+/)*"
    if part["stars"]:
        return "[^/]*"
    if part["one"]:
        return "[^/]"
    if part["set"] is not None:
        is_not = part["set"].startswith("!")
        body = re.sub(r"([\\\[\]^&~|])", r"\\\1", part["set"].removeprefix("!"))
        return f"[^/{body}]" if is_not else f"[{body}]"
    if part["first"] is not None:
        first, last = sorted((int(part["first"]), int(part["last"])))
        if last - first > _LONGEST_RANGE:
            raise ValueError(f"a range may have {_LONGEST_RANGE} numbers at most, got {part[0]}")
        width = len(part["first"]) if part["first"].startswith("0") else 0
        return "(?:" + "|".join(f"{n:0{width}}" for n in range(first, last + 1)) + ")"
    if part["list"] is not None:
        return "(?:" + "|".join(map(_regex, part["list"].split(","))) + ")"
    return re.escape(part["text"])
