"""What a run says while it works."""

import io
import os

from pipeline.training.announcer import Announcer


def test_what_takes_long_is_said_after_some_seconds_and_again_every_ten():
    said, clock = io.StringIO(), [0.0]
    announcer = Announcer(output=said, clock=lambda: clock[0])
    announcer.doing("starting 2 workers")
    times = []
    for second in range(31):
        clock[0] = float(second)
        before = said.getvalue()
        announcer.look()
        if said.getvalue() != before:
            times.append(second)
    assert times == [4, 13, 22]
    assert said.getvalue().splitlines()[0] == "starting 2 workers: 4 s"
    assert said.getvalue().splitlines()[2] == "starting 2 workers: 22 s"


def test_what_is_over_soon_is_not_said_and_lines_put_off_what_is_being_done():
    said, clock = io.StringIO(), [0.0]
    announcer = Announcer(output=said, clock=lambda: clock[0])
    for second in range(30):
        clock[0] = float(second)
        announcer.doing(f"part {second // 2}")
        if second % 5 == 0:
            announcer.say(f"line {second}")
        announcer.look()
    assert said.getvalue().splitlines() == [f"line {second}" for second in range(0, 30, 5)]


def test_how_far_it_is_is_asked_for_when_a_line_is_due():
    said, clock, done = io.StringIO(), [0.0], [1]
    announcer = Announcer(output=said, clock=lambda: clock[0])
    announcer.doing("checking images", detail=lambda: f"{done[0]} of 9")
    for clock[0], done[0] in ((1.0, 2), (5.0, 4), (9.0, 5), (14.5, 7)):
        announcer.look()
    assert said.getvalue().splitlines() == ["checking images: 4 of 9", "checking images: 7 of 9"]


def test_it_is_heard_while_stderr_is_closed_to_native_code(capfd):
    with Announcer() as announcer, open(os.devnull, "w") as nowhere:
        terminal = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        announcer.say("starting Ray")
        os.dup2(terminal, 2)
        os.close(terminal)
    assert capfd.readouterr().err == "starting Ray\n"
