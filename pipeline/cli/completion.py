"""Completion: a shell's script that knows commands, options and choices, written once by shtab."""

import argparse
from collections.abc import Sequence

from pipeline.cli.commands import COMMANDS, Command, load_named
from pipeline.cli.help import all_options
from pipeline.runtime.settings import CONFIG, WrongUsage

SHELLS = ("bash", "zsh", "tcsh")

_PATHS = ("URI", "FOLDER", "FILE", "MODEL", "IN", "OUT")


def completion_script(shell: str) -> str:
    """Returns the script for a shell to evaluate.

    Raises:
        WrongUsage: there is none for this shell.
    """
    if shell not in SHELLS:
        raise WrongUsage(f"--completion must be {', '.join(SHELLS)}, got {shell!r}")
    import shtab

    return shtab.complete(_parser(), shell=shell)


def _parser() -> argparse.ArgumentParser:
    """Describes the command in the terms that shtab reads; nothing is parsed with it."""
    parser = argparse.ArgumentParser(prog="maskformer", add_help=False)
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--help", action="store_true", help="list the commands")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--completion", choices=SHELLS, help="print a shell's completion")
    for command in COMMANDS.values():
        _describe(command, commands.add_parser(command.name, add_help=False, help=command.summary))
    return parser


def _describe(command: Command, parser: argparse.ArgumentParser) -> None:
    for name in ("--help", "--help_all", "--print_config"):
        parser.add_argument(name, action="store_true")
    options = {option.name: option for option in all_options(command)}
    if CONFIG not in options and options:
        _add(parser, f"--{CONFIG}", help="YAML with any of the options", is_path=True)
    names = load_named(command.preset_names)() if command.preset_names else ()
    preset_name = next(iter(options)) if command.preset_names else None
    for option in options.values():
        text = option.brief.replace("%", "%%")
        if option.is_bool:
            parser.add_argument(f"--{option.name}", action="store_true", help=text)
            continue
        choices = names if option.name == preset_name else option.choices
        head = option.name if option.name in command.positional else f"--{option.name}"
        _add(parser, head, help=text, choices=choices, is_path=option.takes in _PATHS)


def _add(
    parser: argparse.ArgumentParser,
    head: str,
    *,
    help: str,
    choices: Sequence[str] = (),
    is_path: bool = False,
) -> None:
    import shtab

    action = parser.add_argument(head, choices=list(choices) or None, help=help)
    if is_path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab asks for it
