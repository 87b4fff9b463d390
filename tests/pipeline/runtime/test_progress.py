"""Progress is a bar on a terminal and lines elsewhere, and says what is done and left."""

import io
import re
import time

import pytest
from terminal import Terminal

import pipeline.runtime.progress
from pipeline.corpora.sources import Source
from pipeline.planning.planner import Plan, Unit
from pipeline.runtime.progress import FileProgress, ProgressDisplay, duration
from pipeline.runtime.run_stats import Counts, RunStats


def plan(*num_images: int | None, size: int = 1000) -> Plan:
    units = tuple(
        Unit(
            unit_id=f"{n}",
            sources=(
                Source(
                    uri=f"/{n}.tar",
                    name=f"{n}.tar",
                    kind="tar",
                    etag="e",
                    size=size,
                    num_images=count,
                ),
            ),
        )
        for n, count in enumerate(num_images)
    )
    return Plan(units=units, done=0, earlier=0, doubled=())


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(pipeline.runtime.run_stats.time, "monotonic", lambda: Clock.now)
    return Clock


def tally_after(clock, *, first: Counts, then: Counts, seconds: float) -> RunStats:
    stats = RunStats()
    stats.add(first, errors=[])
    clock.now += seconds
    stats.add(then, errors=[])
    return stats


def test_a_line_says_what_is_done_how_fast_and_what_is_left(clock):
    stats = tally_after(clock, first=Counts(images=100), then=Counts(images=900), seconds=100)
    stats.counts.errors["EmptyFile"] += 3
    display = ProgressDisplay(stats, plan(2000, 2000), output=io.StringIO())
    assert display.line() == "1,000 of 4,000 images, 9 images/s, 3 errors, 6 min left"


def test_where_the_number_of_images_is_unknown_bytes_tell_what_is_left(clock):
    stats = tally_after(
        clock,
        first=Counts(images=10, bytes_read=100),
        then=Counts(images=40, bytes_read=400),
        seconds=20,
    )
    display = ProgressDisplay(stats, plan(None, 5, size=1000), output=io.StringIO())
    assert display.line() == "50 images, 2 images/s, 0 errors, 75 s left"


def test_before_anything_is_done_nothing_is_promised():
    display = ProgressDisplay(RunStats(), plan(10), output=io.StringIO())
    first = "loading the model and segmenting the first images"
    assert display.line() == f"0 of 10 images, 0 errors, {first}"


def test_of_a_file_the_bytes_that_were_read_tell_what_is_left(clock):
    display = FileProgress(8_000_000, output=io.StringIO())
    assert display.line() == "0.0 of 8.0 MB, 0 MB/s"
    clock.now += 10
    display.add(2_000_000)
    assert display.line() == "2.0 of 8.0 MB, 0.2 MB/s, 30 s left"
    display.add(6_000_000)
    assert display.line() == "8.0 of 8.0 MB, 0.8 MB/s"


def test_at_the_end_nothing_is_left(clock):
    stats = tally_after(clock, first=Counts(images=2), then=Counts(images=8), seconds=4)
    display = ProgressDisplay(stats, plan(10), output=io.StringIO())
    assert display.line() == "10 of 10 images, 2 images/s, 0 errors"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (45.4, "45 s"), (89, "89 s"), (91, "2 min"), (720, "12 min"),
        (7100, "118 min"), (7199, "2 h 0 min"), (12_000, "3 h 20 min"), (360_000, "100 h 0 min"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def displayed(output: io.StringIO, stats: RunStats, *, until: str) -> str:
    """Returns what a display writes until the words appear."""
    with ProgressDisplay(stats, plan(10), output=output):
        deadline = time.monotonic() + 20
        while until not in output.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    return output.getvalue()


def test_without_a_terminal_there_are_plain_lines_with_the_time(monkeypatch):
    monkeypatch.setattr(pipeline.runtime.progress, "_LINE_EVERY_SECONDS", 0.02)
    stats = RunStats()
    stats.add(Counts(images=5), errors=[])
    text = displayed(io.StringIO(), stats, until="\n")
    assert "\x1b" not in text
    assert "\r" not in text
    for line in text.splitlines():
        assert re.fullmatch(r"\d\d:\d\d:\d\d  5 of 10 images, 0 errors", line)


def test_lines_come_every_half_minute():
    assert pipeline.runtime.progress._LINE_EVERY_SECONDS == 30
    output = io.StringIO()
    with ProgressDisplay(RunStats(), plan(10), output=output):
        time.sleep(0.1)
    assert output.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_that_goes_when_it_is_done(monkeypatch):
    monkeypatch.setattr(pipeline.runtime.progress, "_BAR_EVERY_SECONDS", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stats = RunStats()
    stats.add(Counts(images=5), errors=[])
    text = displayed(Terminal(), stats, until="5 of 10")
    assert "labelling" in text
    assert " 50 %" in text
    assert "5 of 10 images" in text
    assert "\x1b[" in text
    assert text.endswith("\x1b[2K")  # its line is cleared: what comes next starts afresh


def test_a_bar_says_that_it_waits_for_the_first_images(monkeypatch):
    monkeypatch.setattr(pipeline.runtime.progress, "_BAR_EVERY_SECONDS", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    text = displayed(Terminal(), RunStats(), until="0 of 10")
    assert "starting" in text
    assert "labelling" not in text


def test_a_display_ends_with_the_work_whatever_became_of_it():
    with pytest.raises(KeyboardInterrupt), ProgressDisplay(RunStats(), plan(1), output=Terminal()):
        raise KeyboardInterrupt
