"""Runs a command: from the words of the command line to an exit code.

What is wrong is one line on stderr, and the exit code says whether to try again. Settings are read
before any library that works with them is loaded.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cli.commands import COMMANDS, Command, load_named
from pipeline.cli.help import all_options, full_help, short_help
from pipeline.runtime.exit_codes import ExitCode, TryAgain
from pipeline.runtime.options import option_name
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage, parse, resolved_yaml
from pipeline.runtime.status_line import NO_STATUS, StatusLine, terminal_status
from pipeline.runtime.versions import project_version

_OUR_PACKAGES = ("maskformer", "pipeline", "jobs")
_FLAGS = ("help", "help_all", "print_config", "version")


def run_job(name: str, words: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs a command; returns its exit code.

    Args:
        words: what follows its name on the command line; that of this process by default.
        prog: how people call it, for help and messages.
    """
    command = COMMANDS[name]
    prog = prog or f"maskformer {name}"
    words = list(sys.argv[1:] if words is None else words)
    own, passed_on = words, []
    if command.takes_command and "--" in words:
        own, passed_on = words[: words.index("--")], words[words.index("--") + 1 :]
    try:
        text = _asked_for(command, own, prog=prog)
    except WrongUsage as error:
        return _fail(str(error), ExitCode.WRONG_USAGE, prog=prog)
    if text is not None:
        show(text)
        return ExitCode.DONE
    with terminal_status() if command.shows_status else NO_STATUS as status:
        status.show("loading")
        try:
            settings = read_settings(command, own)
        except WrongUsage as error:
            return _fail(str(error), ExitCode.WRONG_USAGE, prog=prog, say=status.say)
        if command.takes_command:
            run = partial(command.function(), settings, command=passed_on)
            return _ended(run, command, prog=prog)
        return _run(command, settings, prog=prog, status=status)


def show(text: str) -> None:
    """Prints to whoever reads, `head` included, which leaves before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _asked_for(command: Command, words: Sequence[str], *, prog: str) -> str | None:
    """Returns the text that a flag like --help asks for; None where the command is to run."""
    flags = {"help" if word == "-h" else option_name(word) for word in words if word[:1] == "-"}
    if "help" in flags:
        return short_help(command, prog=prog)
    if "help_all" in flags:
        return full_help(command, prog=prog)
    if "version" in flags:
        return f"maskformer-pipeline {project_version()}"
    if "print_config" in flags:
        others = [word for word in words if option_name(word) != "print_config"]
        return _printed_config(command, others)
    return None


def read_settings(command: Command, words: Sequence[str]) -> Settings:
    """Reads the settings that the words after a command's name ask for.

    Raises:
        WrongUsage: an option is unknown, or a value is none that it takes.
    """
    preset, words = _preset(command, words)
    return parse(
        command.kinds,
        arguments=words,
        positional=command.positional,
        preset=_preset_values(command, preset),
        other_names=[*_FLAGS, *(option.name for option in all_options(command))],
    )


def _printed_config(command: Command, words: Sequence[str]) -> str:
    preset, words = _preset(command, words)
    text = resolved_yaml(
        command.kinds,
        arguments=words,
        positional=command.positional,
        preset=_preset_values(command, preset),
    ).rstrip("\n")
    return text if preset is None else f"{load_named(str(command.preset_comment))(preset)}\n{text}"


def _preset_values(command: Command, preset: str | None) -> Mapping[str, Any]:
    with as_wrong_usage():
        return {} if preset is None else load_named(str(command.preset_values))(preset)


def _preset(command: Command, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes the option of the preset out of the words: its value, and the other words."""
    if command.preset_kind is None:
        return None, list(words)
    [option] = all_options(command)[:1]
    rest, others, value = list(words), [], None
    while rest:
        head, equals, text = rest.pop(0).partition("=")
        if not head.startswith("--") or option_name(head) != option.name:
            others.append(f"{head}{equals}{text}")
        elif equals:
            value = text
        elif rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        else:
            raise WrongUsage(f"--{option.name} needs a value: {option.must_be}")
    return value, others


def _run(command: Command, settings: Settings, *, prog: str, status: StatusLine) -> int:
    if command.shows_status:

        def run_with_status() -> int:
            return command.function()(settings, status=status)

        return _ended(run_with_status, command, prog=prog, say=status.say)
    if not command.announces:
        return _ended(lambda: command.function()(settings), command, prog=prog)
    # Loaded here: it imports the terminal's library, which help and completion do without.
    from pipeline.training.announcer import Announcer

    with Announcer() as announcer:

        def run() -> int:
            # On a busy machine loading takes longer than anyone waits without a word.
            announcer.doing("loading torch and Ray")
            return command.function()(settings, announcer=announcer)

        return _ended(run, command, prog=prog, say=announcer.say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _ended(
    run: Callable[[], int], command: Command, *, prog: str, say: Callable[[str], None] = _say
) -> int:
    """Runs; turns what ends a run early into one line and an exit code."""
    from pipeline.storage import SourceChanged, StorageFault
    from pipeline.storage.faults import can_never_work

    try:
        return run()
    except WrongUsage as error:
        return _fail(str(error), ExitCode.WRONG_USAGE, prog=prog, say=say)
    except TryAgain as error:
        return _fail(str(error), ExitCode.TRY_AGAIN, prog=prog, say=say)
    except (StorageFault, SourceChanged, ConnectionError) as error:
        if can_never_work(error):
            return _fail(str(error), ExitCode.WRONG_USAGE, prog=prog, say=say)
        line = f"{error}; run the same command again"
        return _fail(line, ExitCode.TRY_AGAIN, prog=prog, say=say)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OUR_PACKAGES:
            raise
        line = f"the package {package} is missing; pip install ., and see `maskformer doctor`"
        return _fail(line, ExitCode.WRONG_USAGE, prog=prog, say=say)
    except KeyboardInterrupt:
        return _fail(f"stopped; {command.when_stopped}", ExitCode.TRY_AGAIN, prog=prog, say=say)


def _fail(message: str, code: ExitCode, *, prog: str, say: Callable[[str], None] = _say) -> int:
    say(f"{Path(prog).stem}: {message}")
    return code
