"""Settings: from defaults, a YAML file and the command line to the frozen dataclasses of each part.

The only file that knows jsonargparse. A job names the dataclasses it is made of; their fields stand
side by side in YAML and on the command line, so that no two may share a name.
"""

import dataclasses
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import jsonargparse
import yaml

T = TypeVar("T")

# Help is what the docstrings below the fields say.
jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class WrongUsage(Exception):
    """What was asked for cannot be done as it stands; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parts of a job's settings, resolved."""

    parts: tuple[Any, ...]

    def of(self, kind: type[T]) -> T:
        """The part of that class."""
        return next(part for part in self.parts if type(part) is kind)

    def to_yaml(self) -> str:
        """All fields but secrets, as a file for `--config` that would say the same again."""
        values = {
            field.name: _plain(getattr(part, field.name))
            for part in self.parts
            for field in dataclasses.fields(part)
            if field.repr
        }
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def parse(
    kinds: Sequence[type], *, arguments: Sequence[str] | None = None, description: str
) -> Settings:
    """The settings that the command line and its `--config` ask for.

    Lists may be written with commas: `--image_members png,jpg`.

    Raises:
        WrongUsage: a name is unknown, a value has the wrong type or a part refuses it.
    """
    parser = _Parser(description=description, exit_on_error=False, default_env=False)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below")
    for kind in kinds:
        parser.add_class_arguments(kind, as_group=True, instantiate=False)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        values = parser.parse_args(_with_brackets(words, lists=_list_fields(kinds)))
        parts = tuple(kind(**_fields(kind, values)) for kind in kinds)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise WrongUsage(_one_line(error)) from error
    return Settings(parts=parts)


class _Parser(jsonargparse.ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise WrongUsage(_one_line(message)) from ex


def _list_fields(kinds: Sequence[type]) -> set[str]:
    return {
        name
        for kind in kinds
        for name, hint in typing.get_type_hints(kind).items()
        if tuple in (typing.get_origin(hint), *map(typing.get_origin, typing.get_args(hint)))
    }


def _with_brackets(words: Sequence[str], *, lists: set[str]) -> list[str]:
    """`a,b` as `[a,b]` where a list is meant."""
    changed, is_list = [], False
    for word in words:
        name, equals, value = word.partition("=")
        if is_list and not word.startswith(("[", "-")):
            word = f"[{word}]"
        elif equals and name.removeprefix("--") in lists and not value.startswith("["):
            word = f"{name}=[{value}]"
        is_list = word.removeprefix("--") in lists
        changed.append(word)
    return changed


def _fields(kind: type, values: jsonargparse.Namespace) -> dict[str, Any]:
    named = vars(values)
    return {f.name: _frozen(named[f.name]) for f in dataclasses.fields(kind) if f.name in named}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _one_line(message: object) -> str:
    text = " ".join(str(message).split())
    wrong_type = re.search(
        r'key "(\w+)": .*(?:type|types|Subtypes:) (.*?) Errors: .* value: (.*)', text
    )
    if wrong_type:
        name, types, value = wrong_type.groups()
        return f"{name} must be one of {types}, got {value!r}; see --help"
    return text
