"""A terminal shows what is done before work begins; a log does not."""

import io

from terminal import Terminal
from waiting import wait_until

from pipeline.runtime.status_line import StatusLine


def test_a_terminal_shows_the_last_line_with_its_seconds_and_is_clean_afterwards():
    terminal = Terminal()
    with StatusLine(terminal) as status:
        status.show("loading")
        assert terminal.getvalue() == "\r\033[Kloading ..."
        status.say("20 images")
        wait_until(lambda: "loading ... 1 s" in terminal.getvalue(), what="the first second")
    assert "\r\033[K20 images\n\r\033[Kloading ..." in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_a_log_has_the_lines_that_stay_alone(capsys):
    log = io.StringIO()
    with StatusLine(log) as status:
        status.show("loading")
        status.say("20 images")
    assert log.getvalue() == ""
    assert capsys.readouterr().err == "20 images\n"
