"""Markup: HTML that is escaped by the way it is built.

Text becomes HTML here and nowhere else: whatever is not `Markup` already is escaped, so that a name
in the corpus is never a tag, an attribute or a script.
"""

import html
import re
from typing import Any

_VOID = ("img", "meta", "br")

# Control characters have no place in HTML, and those of direction would let a name pose as another.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, /, *content: Any, **attributes: Any) -> Markup:
    """A tag with its content; None is nothing. `class_` and `stroke_width` are as HTML spells them.

    Only names that the code spells out may be given for tag and attributes.
    """
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{spelled}>")
    return Markup(f"<{tag}{spelled}>{joined(*content)}</{tag}>")


def joined(*content: Any) -> Markup:
    """Pieces one after another; lists are taken apart."""
    flat = []
    for piece in content:
        if isinstance(piece, list | tuple):
            flat.append(joined(*piece))
        elif piece is not None:
            flat.append(escaped(piece))
    return Markup("".join(flat))


def escaped(value: Any) -> Markup:
    """Any value as text of HTML, safe between tags and in quotes."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True))


def short(value: Any, most: int = 200) -> str:
    """Text of at most so many characters; of longer, the beginning and the end."""
    text = str(value)
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[-end:]}"
