"""Runs all benchmarks, one after the other, and writes what they printed into one table.

Each has both cores for itself, so nothing else should run. A program that misses its aim, fails or
does not end in time leaves a row that says so, and the others still run.

    python tests/benchmarks/run_all.py [PROGRAM ...] [--output FILE] [--minutes 20]
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent)]

from machine import describe_machine


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The end of one program."""

    name: str
    seconds: float
    outcome: str
    """"held" where it ended as it should; else what it said last, or that it was skipped."""
    figures: dict[str, str]
    """By case; what the program said of no case under ""."""

    @property
    def is_good(self) -> bool:
        return self.outcome == "held" or self.outcome.startswith("skipped")


def main() -> int:
    """Exit codes: 0 all held or skipped, 1 one did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", help="names, such as throughput; by default all")
    parser.add_argument("--output", type=Path, default=FOLDER / "MEASURED.md")
    parser.add_argument("--minutes", type=float, default=20, help="for each program")
    given = parser.parse_args()
    measured = []
    for name in given.programs or sorted(programs()):
        print(f"{name} …", flush=True)
        measured.append(run(name, seconds=60 * given.minutes))
        print(f"{name}: {measured[-1].outcome}, {measured[-1].seconds:.0f} s", flush=True)
        given.output.write_text(table(measured))
    return 0 if all(each.is_good for each in measured) else 1


def programs() -> Iterator[str]:
    """Yields the names of this folder's files that are programs, without this one."""
    for path in FOLDER.glob("*.py"):
        if path != Path(__file__).resolve() and "__main__" in path.read_text():
            yield path.stem


def run(name: str, *, seconds: float) -> Measured:
    """Runs a program of this folder; ends it after so many seconds, with all that it started."""
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            output, errors = program.communicate(timeout=seconds)
            outcome = outcome_of(program.returncode, output, errors)
        except subprocess.TimeoutExpired:
            outcome = f"not ended after {seconds / 60:.0f} min"
            _end(program.pid)
            output, _ = program.communicate()
    return Measured(
        name=name, seconds=time.monotonic() - began, outcome=outcome, figures=figures_of(output)
    )


def _end(pid: int) -> None:
    """Ends a process and those below it, which would disturb the next program."""
    program = psutil.Process(pid)
    for process in [*program.children(recursive=True), program]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def outcome_of(exit_code: int, output: str, errors: str) -> str:
    """Returns "held", the line that begins with "skipped", or the last line of an error."""
    if exit_code:
        return (errors.strip().splitlines() or [f"exit code {exit_code}"])[-1][:200]
    skipped = [line for line in output.splitlines() if line.startswith("skipped")]
    return skipped[0] if skipped else "held"


def figures_of(output: str) -> dict[str, str]:
    """Returns the values of the JSON lines that a program printed, by case."""
    found = defaultdict(list)
    for line in output.splitlines():
        if line.startswith("{"):
            for case, figure in _by_case(json.loads(line), case=""):
                found[case].append(figure)
    return {case: ", ".join(figures) for case, figures in found.items()}


def _by_case(values: dict[str, Any], *, case: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _by_case(value, case=f"{case}, {key}" if case else key)
        elif key != "benchmark":
            yield case, f"{key} {f'{value:.4g}' if isinstance(value, float) else value}"


def table(measured: Sequence[Measured]) -> str:
    """Returns Markdown: the machine, a row for each program, and one for each of its cases."""
    rows = []
    for each in measured:
        of_all = each.figures.get("", "")
        rows.append(f"| `{each.name}` | | {of_all} | {each.outcome} | {each.seconds:.0f} |")
        rows += [f"| | {case} | {text} | | |" for case, text in each.figures.items() if case]
    head = ["| program | case | figures | outcome | seconds |", "|---|---|---|---|---|"]
    title = f"# Benchmarks, last run\n\nWritten by `make bench`: {describe_machine()}.\n"
    return "\n".join([title, *head, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
