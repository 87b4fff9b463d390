"""Options: what the fields of settings' dataclasses are called, take and mean, for people.

Imports nothing beyond the standard library: help, completion and hints start at once.
"""

import ast
import dataclasses
import inspect
import operator
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, reduce
from typing import Any

# Names of values in help; the types of these options say too little.
_TAKES = {
    "corpus": "URI", "table": "URI", "dataset": "URI", "validation": "URI", "output": "URI",
    "images": "FOLDER", "maps": "FOLDER", "validation_images": "FOLDER", "labels": "FILE",
    "validation_maps": "FOLDER", "model": "MODEL", "architecture": "NAME|FILE|YAML",
    "endpoint_url": "URL", "address": "URL", "ray_address": "ADDRESS", "submission_id": "ID",
    "working_dir": "FOLDER", "source": "IN", "folder": "OUT", "config": "FILE", "name": "NAME",
    "window": "HEIGHT,WIDTH", "crop": "HEIGHT,WIDTH", "pad_to": "HEIGHT,WIDTH",
    "recipe": "NAME", "label_ids_to_fuse": "LABELS", "deadline": "TIME", "licence": "TEXT",
    "format": "FORMAT", "image_root": "URI", "reviews": "URI",
}  # fmt: skip

_SHOWN_ITEMS = 6


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a command: a field of one of its dataclasses."""

    name: str
    takes: str
    """What its value is called in help; empty where it needs none."""
    must_be: str
    """What its value must be, for messages."""
    choices: tuple[str, ...]
    default: Any
    help: str
    """The docstring below the field."""
    group: str
    """The first line of its class's docstring."""
    is_required: bool
    is_bool: bool
    is_list: bool
    takes_many: bool
    """True for text, or several texts with spaces between them."""
    is_secret: bool
    """True where its value must not be shown."""

    @property
    def shown_default(self) -> str:
        """The default as the user would type it; empty where the help tells what none means."""
        if self.is_required or self.default is None or self.default is False or self.default == ():
            return ""
        if isinstance(self.default, tuple):
            shown = ",".join(str(item) for item in self.default[:_SHOWN_ITEMS])
            more = len(self.default) - _SHOWN_ITEMS
            return shown + (f" and {more} more" if more > 0 else "")
        return "true" if self.default is True else str(self.default)

    @property
    def takes_word(self) -> str:
        """The name of its value where the option's own name is left out."""
        return self.name.upper() if self.takes in ("URI", "TEXT") else self.takes

    @property
    def brief(self) -> str:
        """The first sentence of the help."""
        return self.help.split(". ")[0].rstrip(".")


def option_name(word: str) -> str:
    """Returns the setting that a word of the command line names: `--dry-run` is dry_run."""
    return word.removeprefix("--").replace("-", "_")


def did_you_mean(name: str, names: Sequence[str], *, prefix: str = "") -> str:
    """Returns the end of a message that suggests the nearest name; empty where none is near."""
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


@cache
def _options_of(kind: type) -> tuple[Option, ...]:
    hints, texts = typing.get_type_hints(kind), _field_docstrings(kind)
    group = (inspect.getdoc(kind) or kind.__name__).split("\n\n")[0].split(". ")[0].rstrip(".")
    group = " ".join(group.split())
    return tuple(
        _option(field, hint=hints[field.name], text=texts.get(field.name, ""), group=group)
        for field in dataclasses.fields(kind)
    )


def options_of(kinds: Sequence[type]) -> list[Option]:
    """Returns the options of a command that is made of these dataclasses, in order."""
    return [option for kind in kinds for option in _options_of(kind)]


def _option(field: "dataclasses.Field[Any]", *, hint: Any, text: str, group: str) -> Option:
    inner = _without_none(hint)
    choices = typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
    is_bool = inner is bool
    takes = _takes(inner)
    if is_bool:
        takes = "true|false" if field.default is True else ""
    return Option(
        name=field.name,
        takes="" if is_bool and not takes else _named_value(field.name, inner, takes),
        must_be=_must_be(inner) + (" or null" if inner != hint else ""),
        choices=tuple(str(choice) for choice in choices),
        default=field.default,
        help=text,
        group=group,
        is_required=field.default is dataclasses.MISSING,
        is_bool=is_bool,
        is_list=tuple in (typing.get_origin(inner), *map(typing.get_origin, _members(inner)))
        and str not in _members(inner),
        takes_many={str, tuple[str, ...]} <= {*_members(inner)},
        is_secret=not field.repr,
    )


def _named_value(name: str, hint: Any, takes: str) -> str:
    """Returns what help calls a value; options of several commands share a name by chance."""
    is_choice = typing.get_origin(hint) is typing.Literal and name != "format"
    is_file = _TAKES.get(name) == "FILE" and typing.get_origin(hint) is not tuple
    is_named = name in _TAKES and not is_choice and (is_file or _TAKES[name] != "FILE")
    return _TAKES[name] if is_named else takes


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _without_none(hint: Any) -> Any:
    members = [member for member in _members(hint) if member is not type(None)]
    if len(members) == len(_members(hint)):
        return hint
    return reduce(operator.or_, members)


def _takes(hint: Any) -> str:
    """Names the value in help by its type."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        first, *others = typing.get_args(hint)
        item = "NUMBER" if first in (int, float) else "NAME"
        return f"{item},..." if others == [...] else ",".join([item] * (1 + len(others)))
    names = {int: "NUMBER", float: "NUMBER", str: "TEXT", bool: ""}
    return "|".join(dict.fromkeys(names.get(member, "YAML") for member in _members(hint)))


_KINDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false",
}  # fmt: skip
_MANY = {int: "whole numbers", float: "numbers", str: "names"}


def _must_be(hint: Any) -> str:
    """Says in words what values a type has."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        first, *others = typing.get_args(hint)
        many = " or ".join(_MANY.get(member, "values") for member in _members(first))
        if others == [...]:
            return f"{many} with commas between them"
        return f"{1 + len(others)} {many} with commas between them"
    return " or ".join(_KINDS.get(member, "a YAML mapping") for member in _members(hint))


def _field_docstrings(kind: type) -> dict[str, str]:
    """Reads the docstrings below the fields of a class, and of those it extends, from source."""
    found: dict[str, str] = {}
    for base in kind.__bases__:
        if dataclasses.is_dataclass(base):
            found |= _field_docstrings(base)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for above, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(above, ast.AnnAssign)
            and isinstance(above.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[above.target.id] = " ".join(str(below.value.value).split()).replace("`", "")
    return found
