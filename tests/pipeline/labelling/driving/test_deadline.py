"""Units begin as long as they would be done in time."""

from datetime import datetime

import pytest

from pipeline.labelling.driving.deadline import DeadlineAdmission, moment

NOW = datetime(2026, 3, 1, 22, 30, 15)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("23:15", datetime(2026, 3, 1, 23, 15)),
        ("06:30", datetime(2026, 3, 2, 6, 30)),
        ("22:30", datetime(2026, 3, 2, 22, 30)),
        ("6h", datetime(2026, 3, 2, 4, 30, 15)),
        ("1h30m", datetime(2026, 3, 2, 0, 0, 15)),
        ("90m", datetime(2026, 3, 2, 0, 0, 15)),
        ("45s", datetime(2026, 3, 1, 22, 31)),
    ],
)
def test_a_deadline_is_the_next_such_time_or_the_end_of_a_duration(text, expected):
    assert moment(text, now=NOW) == expected


@pytest.mark.parametrize("text", ["", "6", "24:00", "12:60", "h", "tomorrow", "6h ", "-1h"])
def test_other_words_are_no_deadline(text):
    with pytest.raises(ValueError, match="deadline must be a time such as 06:30 or a duration"):
        moment(text, now=NOW)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_unit_begins_that_would_not_be_done_in_time():
    clock = Clock()
    admission = DeadlineAdmission(100.0, clock=clock)
    for second, unit in ((0.0, "a"), (1.0, "b")):
        clock.now = second
        assert admission.admits(unit)
    for second, done, following in ((20.0, "a", "c"), (40.0, "b", "d")):
        clock.now = second
        admission.note_done(done)
        assert admission.admits(following)
    # Twenty seconds a unit: c, d and e would be done at 105.
    clock.now = 45.0
    assert not admission.admits("e")
    assert admission.begun() == {"a", "b", "c", "d"}


def test_a_gate_that_shut_stays_shut_but_for_what_has_begun():
    clock = Clock()
    admission = DeadlineAdmission(10.0, clock=clock)
    assert admission.admits("a")
    clock.now = 10.0
    assert not admission.admits("b")
    clock.now = 0.0
    assert not admission.admits("b")
    assert admission.admits("a")  # its reader died and runs again


def test_before_any_unit_is_done_the_deadline_itself_counts():
    clock = Clock()
    admission = DeadlineAdmission(10.0, clock=clock)
    clock.now = 9.9
    assert all(admission.admits(str(n)) for n in range(50))
    assert not DeadlineAdmission(0.0, clock=clock).admits("a")
