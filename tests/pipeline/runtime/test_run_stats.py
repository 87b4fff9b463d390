"""The stats sums up what was done, takes back what has to be done again, and tells the rate."""

from collections import Counter

import pytest

import pipeline.runtime.run_stats
from pipeline.runtime.run_stats import Counts, RunStats


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(pipeline.runtime.run_stats.time, "monotonic", lambda: Clock.now)
    return Clock


def test_what_is_taken_back_was_never_there():
    counts = Counts(images=3, segments=5, bytes_read=7, errors=Counter(NotAnImage=2))
    unit = Counts(images=2, segments=1, bytes_read=4, errors=Counter(NotAnImage=1, EmptyFile=1))
    total = Counts()
    total.add(counts)
    total.add(unit)
    assert (total.images, total.num_errors) == (5, 4)
    total.take_back(unit)
    assert total == counts


def test_the_rate_leaves_start_up_out(clock):
    stats = RunStats()
    assert not stats.has_begun
    assert stats.images_per_second is None
    stats.add(Counts(images=10), errors=[])
    assert stats.has_begun
    assert stats.images_per_second is None
    clock.now += 4
    stats.add(Counts(images=20), errors=[])
    assert stats.images_per_second == 5.0


def test_the_rate_begins_when_every_actor_has_given_rows(clock):
    """The second actor's first rows were almost done when those of the first came."""
    stats = RunStats(actors=2)
    stats.add(Counts(images=10), errors=[])
    stats.add(Counts(images=10), errors=[])
    clock.now += 4
    stats.add(Counts(images=20), errors=[])
    assert stats.images_per_second == 5.0


def test_receipts_without_images_move_no_clock(clock):
    stats = RunStats()
    stats.add(Counts(), errors=[])
    assert not stats.has_begun
    stats.add(Counts(images=1), errors=[])
    clock.now += 2
    stats.add(Counts(images=2), errors=[])
    clock.now += 100
    stats.add(Counts(), errors=[])
    assert stats.images_per_second == 1.0


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_moment_gives_no_rate(clock, seconds):
    stats = RunStats()
    stats.add(Counts(images=1), errors=[])
    clock.now += seconds
    stats.add(Counts(images=1), errors=[])
    assert stats.images_per_second is None


def test_images_done_again_count_for_the_rate_and_not_for_the_sum(clock):
    stats = RunStats()
    stats.add(Counts(images=1), errors=[])
    for _ in range(2):
        clock.now += 1
        stats.add(Counts(images=4), errors=[])
    stats.counts.take_back(Counts(images=4))
    assert stats.counts.images == 5
    assert stats.images_per_second == 4.0


def test_of_each_class_of_error_the_first_images_are_kept():
    stats = RunStats()
    for number in range(20):
        error_class = "EmptyFile" if number % 2 else "NotAnImage"
        error = {"image_id": f"{number}", "error_class": error_class, "error_message": f"m{number}"}
        stats.add(Counts(images=1, errors=Counter([error_class])), errors=[error])
    assert stats.counts.errors == Counter(EmptyFile=10, NotAnImage=10)
    assert stats.examples["NotAnImage"] == [
        {"image_id": f"{n}", "message": f"m{n}"} for n in (0, 2, 4, 6, 8)
    ]


def test_sums_over_other_processes_are_what_one_process_would_have_counted(clock):
    error = {"error_class": "NotAnImage", "image_id": "a", "error_message": "no"}
    before, first, second, shown = RunStats(), RunStats(), RunStats(), RunStats(actors=2)
    before.add(Counts(images=1, errors=Counter(NotAnImage=1)), errors=[error])
    shown.set_sums([before, first, second])
    for part in (first, second):
        part.add(Counts(images=10, segments=3), errors=[error | {"image_id": "b"}])
        part.units += 1
    second.faults["u"] = "gone"
    shown.set_sums([before, first, second])
    shown.set_sums([before, first, second])  # nothing new
    assert (shown.counts.images, shown.counts.segments, shown.units) == (21, 6, 2)
    assert shown.faults == {"u": "gone"}
    assert [each["image_id"] for each in shown.examples["NotAnImage"]] == ["a", "b"]
    clock.now += 4
    first.add(Counts(images=40), errors=[])
    shown.set_sums([before, first, second])
    assert shown.images_per_second == 40 / 4
    first.counts.take_back(Counts(images=40))
    first.faults["u"] = "gone"
    shown.set_sums([before, first, second])
    assert shown.counts.images == 21
