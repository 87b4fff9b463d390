"""What tests measured: lines that begin with "figure: ", in one table at the end of the run.

The table names the machine; `--figures FILE` writes it too, as `make faults` does, after each test:
a run that is cut short leaves what it has measured.
"""

from pathlib import Path

import pytest
from machine import describe_machine

_BEGIN = "figure: "
_HEAD = ("| test | figure | outcome | seconds |", "|---|---|---|---|")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="Markdown file for what the tests measured")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Figures(config.getoption("--figures")), "figures-of-run")


class Figures:
    """Collects the figures of a run; tests that failed have a row that says so."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._machine = describe_machine()  # before the file makes the checkout differ
        self._num_chosen: int | None = None
        self._num_ended = self._num_failed = 0
        self._rows: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._num_chosen = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or not (report.failed or report.when == "call"):
            return
        self._num_ended += 1
        self._num_failed += report.failed
        test = report.nodeid.partition("::")[2]
        for text in _figures(report) or ([""] if report.failed else []):
            self._rows.append(f"| {test} | {text} | {report.outcome} | {report.duration:.0f} |")
        if self._file is not None:
            title = ["# Faults, last run", "", f"Written by `make faults`: {self._about()}", ""]
            self._file.write_text("\n".join([*title, *_HEAD, *sorted(self._rows), ""]))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._rows:
            terminalreporter.section("figures")
            for line in (self._about(), "", *_HEAD, *sorted(self._rows)):
                terminalreporter.line(line)

    def _about(self) -> str:
        of_all = f" of {self._num_chosen}" if self._num_chosen else ""
        ended = f"{self._num_ended}{of_all} tests ended, {self._num_failed} of them failed"
        return f"{self._machine}. {ended}."


def _figures(report: pytest.TestReport) -> list[str]:
    lines = report.capstdout.splitlines()
    return [line.removeprefix(_BEGIN) for line in lines if line.startswith(_BEGIN)]
