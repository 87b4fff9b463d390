"""What tests measured: lines that begin with "figure: ", in one table at the end of the run.

The table names the machine; `--figures FILE` writes it too, as `make faults` does.
"""

from pathlib import Path

import pytest
from machine import describe_machine

_BEGIN = "figure: "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="Markdown file for what the tests measured")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the figures; tests that failed have a row that says so."""
    reports = [
        (kind, report)
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if isinstance(report, pytest.TestReport)
    ]
    rows = [
        f"| {report.nodeid.partition('::')[2]} | {text} | {kind} | {report.duration:.0f} |"
        for kind, report in sorted(reports, key=lambda each: each[1].nodeid)
        for text in _figures(report) or ([""] if kind == "failed" else [])
    ]
    if not rows:
        return
    about = f"{describe_machine()}. {len(reports)} tests ended, "
    about += f"{sum(kind == 'failed' for kind, _ in reports)} of them failed."
    head = ["| test | figure | outcome | seconds |", "|---|---|---|---|"]
    terminalreporter.section("figures")
    for line in (about, "", *head, *rows):
        terminalreporter.line(line)
    if file := config.getoption("--figures"):
        title = ["# Faults, last run", "", f"Written by `make faults`: {about}", ""]
        Path(file).write_text("\n".join([*title, *head, *rows, ""]))


def _figures(report: pytest.TestReport) -> list[str]:
    lines = report.capstdout.splitlines()
    return [line.removeprefix(_BEGIN) for line in lines if line.startswith(_BEGIN)]
