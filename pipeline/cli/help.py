"""Help: the screens that `--help` and `--help_all` print, from the settings' own docstrings."""

import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pipeline
from pipeline.cli.commands import COMMANDS, Command
from pipeline.runtime.options import Option, options_of

PAGES = Path(pipeline.__file__).with_name("README.md")
"""The page that leads to all others."""

_WIDEST = 100
_HEAD = 28
_GENERAL = (
    ("--config FILE", "YAML with any of the options"),
    ("--print_config", "Print all settings as such a file"),
)


def list_of_commands(version: str) -> str:
    """Writes the screen of `maskformer` alone."""
    lines = [
        "Usage: maskformer COMMAND [OPTIONS]",
        "",
        "Label image corpora with MaskFormer on Ray, train models, judge them.",
        "",
        *(f"  {command.name:<10} {command.summary}" for command in COMMANDS.values()),
        "",
        "maskformer COMMAND --help     usual options and examples",
        "maskformer COMMAND --help_all every option",
        'eval "$(maskformer --completion bash)"     completion by TAB; also zsh, tcsh',
        f"pages for each task, errors, words: {PAGES}",
        "",
        f"maskformer-pipeline {version}",
    ]
    return "\n".join(lines)


def short_help(command: Command, *, prog: str) -> str:
    """Writes the usual options of a command on one screen."""
    options = {option.name: option for option in all_options(command)}
    usual = [options[name] for name in command.usual.split()]
    more = len(options) - len(usual)
    general = list(_GENERAL if options and _takes_config(command) else ())
    if more:
        general.append(("--help_all", f"Show {more} more options"))
    lines = [
        *_head(command, prog=prog),
        *(
            line
            for option in usual
            for line in _lines(option, command=command, text=_brief(option))
        ),
        *(line for head, text in general for line in _columns(head, text)),
    ]
    return "\n".join([*lines, *_examples(command, prog=prog)])


def full_help(command: Command, *, prog: str) -> str:
    """Writes every option of a command with its whole text, in groups."""
    lines = _head(command, prog=prog)
    group = None
    for option in all_options(command):
        if option.group != group:
            group = option.group
            lines += ["", f"{group}:"] if lines[-1] else [f"{group}:"]
        lines += _lines(option, command=command, text=_full(option))
    general = [*(_GENERAL if _takes_config(command) else ()), ("--help", "Show the usual options")]
    lines += ["", "General:", *(line for head, text in general for line in _columns(head, text))]
    return "\n".join([*lines, *_examples(command, prog=prog)])


def all_options(command: Command) -> list[Option]:
    """Returns all options that the command line takes; the preset comes first."""
    preset = command.preset_kind
    options = options_of([*(() if preset is None else (preset,)), *command.kinds])
    return [option for option in options if not option.is_secret]


def _takes_config(command: Command) -> bool:
    return bool(command.kinds) and all(option.name != "config" for option in all_options(command))


def _head(command: Command, *, prog: str) -> list[str]:
    options = {option.name: option for option in options_of(command.kinds)}
    words = [options[name].takes_word for name in command.positional]
    words += [
        f"--{option.name} {option.takes}"
        for option in options.values()
        if option.is_required and option.name not in command.positional
    ]
    words += ["[OPTIONS]"] if options else []
    words += ["-- COMMAND"] if command.takes_command else []
    usage = textwrap.wrap(
        " ".join([f"Usage: {prog}", *words]),
        _width(), subsequent_indent="         ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    details = command.details.splitlines()
    return [*usage, "", command.summary, *details, *([""] if options else [])]


def _lines(option: Option, *, command: Command, text: str) -> list[str]:
    if option.name in command.positional:
        return _columns(option.takes_word, text)
    return _columns(f"--{option.name} {option.takes}".rstrip(), text)


def _columns(head: str, text: str) -> list[str]:
    """Writes head and text side by side; below each other where the head is long."""
    wrapped = textwrap.wrap(text, _width() - _HEAD - 2, break_on_hyphens=False) or [""]
    indent = " " * (_HEAD + 2)
    if len(head) > _HEAD - 2:
        return [f"  {head}", *(indent + line for line in wrapped)]
    return [f"  {head:<{_HEAD}}{wrapped[0]}".rstrip(), *(indent + line for line in wrapped[1:])]


def _brief(option: Option) -> str:
    return _with_default(option.brief, option)


def _full(option: Option) -> str:
    return _with_default(option.help.rstrip("."), option)


def _with_default(text: str, option: Option) -> str:
    default = option.shown_default
    return f"{text} [{default}]" if default else text


def _examples(command: Command, *, prog: str) -> Iterable[str]:
    if not command.examples:
        return []
    shown = [f"  {prog}{example.removeprefix(command.name)}" for example in command.examples]
    return ["", "Examples:", *shown]


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
