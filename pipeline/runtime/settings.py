"""Settings: from defaults, a YAML file and the command line to the frozen dataclasses of each part.

The only file that knows jsonargparse, which it imports when it parses. A command names the
dataclasses it is made of; their fields stand side by side in YAML and on the command line, so that
no two may share a name.
"""

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.runtime.options import Option, did_you_mean, option_name, options_of

T = TypeVar("T")

CONFIG = "config"
"""The option that names a YAML file with any of the settings."""


class WrongUsage(Exception):
    """Ends a command that cannot do what was asked for; the message is one line for the user."""


@contextlib.contextmanager
def as_wrong_usage() -> Iterator[None]:
    """Raises WrongUsage, in one line, in place of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(" ".join(str(error).split())) from error


@dataclasses.dataclass(frozen=True)
class Settings:
    """Holds the parts of a command's settings, resolved."""

    parts: tuple[Any, ...]

    def of(self, kind: type[T]) -> T:
        """Returns the part of that class."""
        return next(part for part in self.parts if type(part) is kind)

    def to_yaml(self) -> str:
        """Writes all fields but secrets, as a file for `--config` that says the same again."""
        values = {
            field.name: getattr(part, field.name)
            for part in self.parts
            for field in dataclasses.fields(part)
            if field.repr
        }
        return _yaml(values)


def parse(
    kinds: Sequence[type],
    *,
    arguments: Sequence[str] | None = None,
    positional: Sequence[str] = (),
    preset: Mapping[str, Any] | None = None,
    other_names: Sequence[str] = (),
) -> Settings:
    """Reads the settings that the command line and its `--config` ask for; the command line wins.

    Names may be written with hyphens or underscores. Lists may be written with commas,
    `--image_members png,jpg`, or with spaces where no word without a name may follow; a yes needs
    no word: `--dry_run`.

    Args:
        positional: the settings that words without a name are, in order.
        preset: values in place of the defaults.
        other_names: options that the caller takes itself, to be suggested where a name is unknown.

    Raises:
        WrongUsage: a name is unknown, a value has the wrong type or a part refuses it.
    """
    values = _parsed(
        kinds, arguments, positional=positional, preset=preset or {}, other_names=other_names
    )
    try:
        return Settings(parts=tuple(kind(**_fields(kind, values)) for kind in kinds))
    except (ValueError, TypeError) as error:
        raise WrongUsage(" ".join(str(error).split())) from error


def resolved_yaml(
    kinds: Sequence[type],
    *,
    arguments: Sequence[str] | None,
    positional: Sequence[str] = (),
    preset: Mapping[str, Any] | None = None,
) -> str:
    """Writes the settings that `parse` would read, as a file for `--config` to start from.

    Settings without a default that were not given are comments.
    """
    needed = [option.name for option in options_of(kinds) if option.is_required]
    placeholders = dict.fromkeys(needed, "")
    values = _parsed(
        kinds, arguments, positional=positional, preset={**placeholders, **(preset or {})}
    )
    blocks = []
    for kind in kinds:
        options = [option for option in options_of([kind]) if not option.is_secret]
        lines = [
            f"# {option.name}: {option.takes}\n"
            if option.is_required and values[option.name] == ""
            else _yaml_line(option.name, _plain(values[option.name]))
            for option in options
        ]
        blocks.append("".join([f"# {options[0].group}\n", *lines]))
    return "\n".join(blocks)


def _parsed(
    kinds: Sequence[type],
    arguments: Sequence[str] | None,
    *,
    positional: Sequence[str],
    preset: Mapping[str, Any],
    other_names: Sequence[str] = (),
) -> Mapping[str, Any]:
    import jsonargparse

    options = {option.name: option for option in options_of(kinds)}
    words = sys.argv[1:] if arguments is None else list(arguments)
    known = [*options, CONFIG, *other_names]
    words = _spelled_out(words, options=options, positional=positional, known=known)
    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, default_env=False, allow_abbrev=False, add_help=False
    )
    if CONFIG not in options:
        parser.add_argument(f"--{CONFIG}", action="config")
    for kind in kinds:
        parser.add_class_arguments(kind, as_group=True, instantiate=False)
    parser.set_defaults({name: _plain(value) for name, value in preset.items()})
    try:
        return vars(parser.parse_args(words))
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise WrongUsage(_one_line(error, options=options, positional=positional)) from error


def _spelled_out(
    words: Sequence[str],
    *,
    options: Mapping[str, Option],
    positional: Sequence[str],
    known: Sequence[str],
) -> list[str]:
    """Spells words as jsonargparse wants them: `--config` first, lists in brackets, no bare yes.

    Raises:
        WrongUsage: there is no such option, it needs a value, or it is a secret.
    """
    configs: list[str] = []
    others: list[str] = []
    rest, names = list(words), list(positional)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if not names:
                raise WrongUsage(_stray(word, options=options, words=words))
            word = f"--{names.pop(0)}={word}"
        head, equals, text = word.partition("=")
        field, dot, key = head.partition(".")
        name = option_name(field)
        option = options.get(name)
        _check_name(head, name=name, option=option, known=known)
        value = text if equals else _next_value(rest, option=option)
        if value is None:
            needed = option.must_be if option is not None else "a file"
            raise WrongUsage(f"{head} needs a value: {needed}; see --help")
        if option is not None and (option.is_list or option.takes_many) and not names:
            value = _with_further_values(value, rest, option=option)
        if option is not None and option.is_list and value != "null" and value[:1] != "[":
            value = f"[{value}]"
        (configs if name == CONFIG else others).append(f"--{name}{dot}{key}={value}")
    return configs + others


def _stray(word: str, *, options: Mapping[str, Option], words: Sequence[str]) -> str:
    """Words the message for a word that belongs to no option; names the option likely meant."""
    given = {option_name(each.partition("=")[0]) for each in words if each.startswith("--")}
    missing = [name for name, option in options.items() if option.is_required and name not in given]
    guess = f"did you mean --{missing[0]} {word}?" if missing else "see --help"
    return f"no option stands before {word}, to which it belongs; {guess}"


def _next_value(rest: list[str], *, option: Option | None) -> str | None:
    """Takes the value of an option from the words after it; a yes needs none."""
    if option is not None and option.is_bool and rest[:1] not in (["true"], ["false"], ["null"]):
        return "true"
    return rest.pop(0) if rest and not rest[0].startswith("--") else None


def _with_further_values(value: str, rest: list[str], *, option: Option) -> str:
    """Takes the words up to the next option as further values of a list."""
    values = [value]
    while rest and not rest[0].startswith("--"):
        values.append(rest.pop(0))
    if len(values) == 1:
        return value
    return ",".join(values) if option.is_list else json.dumps(values)


def _check_name(head: str, *, name: str, option: Option | None, known: Sequence[str]) -> None:
    if option is None and name != CONFIG:
        near = did_you_mean(name, known, prefix="--")
        raise WrongUsage(f"there is no setting {head}{near or '; see --help'}")
    if option is not None and option.is_secret:
        # Secrets must not stand in the process list, as `to_yaml` does not write them.
        raise WrongUsage(
            f"--{name} is a secret, and the process list shows every word of a command; "
            "set it by the environment or in the file of --config"
        )


def _fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: _frozen(values[f.name]) for f in dataclasses.fields(kind) if f.name in values}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    plain = {name: _plain(value) for name, value in values.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _yaml_line(name: str, value: Any) -> str:
    """Writes one setting; a list in brackets."""
    import yaml

    style = None if isinstance(value, list | dict) else False
    return yaml.safe_dump({name: value}, default_flow_style=style, allow_unicode=True, width=100)


def _one_line(error: Exception, *, options: Mapping[str, Option], positional: Sequence[str]) -> str:
    """Says what jsonargparse found, for people."""
    text = " ".join(str(error).split()).replace('"<unicode string>"', f"the file of --{CONFIG}")
    if missing := re.search(r"the following arguments are required: (.*)", text):
        needed = [name.strip() for name in missing[1].split(",")]
        names = ", ".join(n.upper() if n in positional else f"--{n}" for n in needed)
        return f"{names} must be given; see --help"
    if unknown := re.search(r"Option (.*?) is not accepted", text):
        name = unknown[1].strip("'")
        return f"there is no setting {name}{did_you_mean(name, list(options)) or '; see --help'}"
    wrong = re.search(r'key "(\w+)": .*(?:value: |Got value: )(.*)', text)
    if wrong and wrong[1] in options:
        option = options[wrong[1]]
        near = did_you_mean(wrong[2], option.choices) or "; see --help"
        return f"{wrong[1]} must be {option.must_be}, got {wrong[2]!r}{near}"
    if "File does not exist" in text and "/configs/" in text:
        text += "; the folder configs is in a checkout of this project, not in what pip installs"
    return text.replace(f'Parser key "{CONFIG}": ', f"--{CONFIG}: ")
