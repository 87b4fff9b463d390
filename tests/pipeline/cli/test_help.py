"""Help: usual options on one screen, all of them on another, no heavy library for either."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.cli.commands import COMMANDS, Command
from pipeline.cli.help import all_options, full_help, list_of_commands, short_help

ROOT = Path(pipeline.__file__).parents[1]
HEAVY = {
    "torch", "torchvision", "timm", "ray", "transformers", "pyarrow", "pyarrow.dataset", "numpy",
    "PIL", "scipy", "duckdb", "jsonargparse", "yaml", "rich", "aiohttp", "s3fs", "botocore",
}  # fmt: skip
SCREEN = 24

command = pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)


@pytest.fixture(autouse=True)
def _a_terminal_of_100_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def help_of(command: Command, *, every: bool = False) -> str:
    return (full_help if every else short_help)(command, prog=f"maskformer {command.name}")


@command
def test_the_usual_options_fit_on_one_screen(command):
    lines = help_of(command).splitlines()
    assert max(map(len, lines)) <= 100
    options = [line for line in lines if line.startswith("  ") and "maskformer" not in line]
    assert len(options) <= SCREEN
    assert lines[0].startswith(f"Usage: maskformer {command.name}")
    assert command.summary in lines


@command
def test_each_usual_option_is_explained_in_a_line(command):
    for name in command.usual.split():
        [option] = [each for each in all_options(command) if each.name == name]
        text = f"{option.brief} [{option.shown_default}]" if option.shown_default else option.brief
        assert 0 < len(text) <= 70, f"--{name}: {text}"


@command
def test_each_option_is_there_and_explained(command):
    text = help_of(command, every=True)
    for option in all_options(command):
        assert option.help, f"--{option.name} has no docstring"
        heading = option.takes_word if option.name in command.positional else f"--{option.name}"
        assert re.search(rf"^  {re.escape(heading)}\b", text, re.MULTILINE), option.name
    for example in command.examples:
        assert f"\n  maskformer {example}" in text, "an example has a line of its own"


@command
def test_help_is_in_words(command):
    text = help_of(command, every=True)
    for strange in ("Optional", "tuple[", "Union", "Literal", "null", "None", "default:", "<class"):
        assert strange not in text, strange


def test_the_commands_are_listed_with_a_line_each():
    lines = list_of_commands("1.2").splitlines()
    assert len(lines) <= SCREEN + 6  # a command a line: there are seventeen
    for name, each in COMMANDS.items():
        assert f"  {name:<10} {each.summary}" in lines


@pytest.mark.parametrize(
    "words",
    [
        [], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS),
        *([name, "--help_all"] for name in COMMANDS),
    ],
    ids=" ".join,
)  # fmt: skip
def test_help_loads_no_heavy_library(words):
    code = (
        "import sys\nfrom pipeline.cli.__main__ import main\n"
        "code = main(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "maskformer" in done.stdout
    assert not HEAVY & set(done.stderr.split())
