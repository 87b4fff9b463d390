"""Commands of the demo: each is printed as a person would type it, and runs in a process."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pipeline

_STOP_SECONDS = 30.0


class CommandFailed(Exception):
    """A command of the demo has ended with an exit code that is not 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the command above has ended with exit code {exit_code}")
        self.exit_code = exit_code


def run_command(*words: str) -> float:
    """Prints and runs `maskformer WORDS`; returns the seconds that it took.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    began = time.monotonic()
    print_command("maskformer", *words)
    code = subprocess.run(_as_module(words), env=_environment(), check=False).returncode
    if code:
        raise CommandFailed(code)
    return time.monotonic() - began


def run_python(code: str) -> str:
    """Prints and runs `python -c CODE`; returns what it printed, which is printed too.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    print_command("python", "-c", code)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout, end="", flush=True)
    if ended.returncode:
        raise CommandFailed(ended.returncode)
    return ended.stdout


@contextlib.contextmanager
def served_page(*words: str) -> Iterator[str]:
    """Prints and runs `maskformer WORDS`, which serves a page; yields the address of the page.

    The server ends with the context, as by Ctrl-C.

    Raises:
        CommandFailed: it ended before it served anything.
    """
    print_command("maskformer", *words)
    process = subprocess.Popen(
        _as_module(words), env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            print(process.communicate()[1], file=sys.stderr, end="")
            raise CommandFailed(process.returncode)
        print(said, end="", flush=True)
        yield said.split()[-1]
    finally:
        _stop(process)


def print_command(*words: str) -> None:
    """Prints a command line, quoted for a shell."""
    print("$", shlex.join(words), flush=True)


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _as_module(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *words]


def _environment() -> dict[str, str]:
    # The parent of the package, so that a checkout works without being installed.
    root = str(Path(pipeline.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
