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
    kinds: Sequence[type],
    *,
    arguments: Sequence[str] | None = None,
    description: str,
    positional: str | None = None,
) -> Settings:
    """The settings that the command line and its `--config` ask for; the command line wins.

    Lists may be written with commas: `--image_members png,jpg`; a yes needs no word: `--dry_run`.

    Args:
        positional: the setting that a word without a name is, as the table that is verified.

    Raises:
        WrongUsage: a name is unknown, a value has the wrong type or a part refuses it.
    """
    parser = _Parser(
        description=description, exit_on_error=False, default_env=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML with any of the settings below")
    for kind in kinds:
        parser.add_class_arguments(kind, as_group=True, instantiate=False)
    words = sys.argv[1:] if arguments is None else list(arguments)
    _refuse_secrets(words, kinds=kinds)
    try:
        values = parser.parse_args(_spelled_out(words, kinds=kinds, positional=positional))
        parts = tuple(kind(**_fields(kind, values)) for kind in kinds)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise WrongUsage(_one_line(error)) from error
    return Settings(parts=parts)


class _Parser(jsonargparse.ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise WrongUsage(_one_line(message)) from ex


def _refuse_secrets(words: Sequence[str], *, kinds: Sequence[type]) -> None:
    """What `to_yaml` does not write must not stand in the process list either."""
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    for field in fields:
        option = f"--{field.name}"
        if not field.repr and any(word.partition("=")[0] == option for word in words):
            raise WrongUsage(
                f"{option} is a secret, and the process list shows every word of a command; "
                "set it by the environment or in the file of --config"
            )


def _spelled_out(
    words: Sequence[str], *, kinds: Sequence[type], positional: str | None
) -> list[str]:
    """The words as jsonargparse wants them: `--config` first, lists in brackets, no bare yes."""
    hints = {name: hint for kind in kinds for name, hint in typing.get_type_hints(kind).items()}
    configs: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        hint = hints.get(option.removeprefix("--")) if option.startswith("--") else None
        if positional and not option.startswith("-"):
            option, equals, value = f"--{positional}", "=", f"{option}{equals}{value}"
        takes_next = bool(rest) and not equals and not rest[0].startswith("--")
        if hint in (bool, bool | None) and positional:
            takes_next = takes_next and rest[0] in ("true", "false")
        if hint in (bool, bool | None) and not equals and not takes_next:
            equals, value = "=", "true"
        elif takes_next and (option == "--config" or hint is not None):
            equals, value = "=", rest.pop(0)
        if _is_list(hint) and equals and value != "null" and not value.startswith("["):
            value = f"[{value}]"
        (configs if option == "--config" else others).append(f"{option}{equals}{value}")
    return configs + others


def _is_list(hint: Any) -> bool:
    return tuple in (typing.get_origin(hint), *map(typing.get_origin, typing.get_args(hint)))


def _fields(kind: type, values: jsonargparse.Namespace) -> dict[str, Any]:
    named = vars(values)
    return {f.name: _frozen(named[f.name]) for f in dataclasses.fields(kind) if f.name in named}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _one_line(message: object) -> str:
    """What jsonargparse says, for people."""
    text = " ".join(str(message).split())
    if unknown := re.search(
        r"^(?:unrecognized arguments: |Option )(.*?)(?: is not accepted)?$", text
    ):
        return f"there is no setting {unknown[1]}; see --help"
    wrong_type = re.search(
        r'key "(\w+)": .*(?:type|types|Subtypes:) (.*?) Errors: .* value: (.*)', text
    ) or re.search(r'key "(\w+)": Expected an? (.*?)\. Got value: (.*)', text)
    if not wrong_type:
        return text
    name, types, value = wrong_type.groups()
    types = re.sub(r"<class '(\w+)'>", r"\1", types).replace("typing.", "")
    types = types.strip("[]").replace("Literal[", "").replace("NoneType", "null")
    types = re.sub(r", (?!\.\.\.)", " or ", types)
    return f"{name} must be {types}, got {value!r}; see --help"
