"""Shows on a terminal what a command is doing before its work begins: one line, overwritten.

Starts at once, since it imports nothing that takes time.
"""

import sys
import threading
import time
from typing import TextIO

_CLEAR = "\r\033[K"
_EVERY_SECONDS = 0.5


class StatusLine:
    """The last line of a terminal; elsewhere nothing is shown. A context manager."""

    def __init__(self, output: TextIO | None = None) -> None:
        """Writes to the output; None writes nothing."""
        self._output = output if output is not None and output.isatty() else None
        self._text, self._began = "", 0.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def show(self, text: str) -> None:
        """Shows what is done from now on, with its seconds."""
        if self._output is None or self._stop.is_set():
            return
        with self._lock:
            self._text, self._began = text, time.monotonic()
            self._draw()
        if not self._thread.is_alive():
            self._thread.start()

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        with self._lock:
            if self._output is not None:
                self._output.write(_CLEAR)
            print(line, file=self._output or sys.stderr, flush=True)
            if self._output is not None and not self._stop.is_set():
                self._draw()

    def end(self) -> None:
        """Clears the line for good."""
        if self._output is None or self._stop.is_set():
            return
        with self._lock:
            self._stop.set()
            self._output.write(_CLEAR)
            self._output.flush()

    def _draw(self) -> None:
        assert self._output is not None
        seconds = time.monotonic() - self._began
        shown = f" {seconds:.0f} s" if seconds >= 1 else ""
        self._output.write(f"{_CLEAR}{self._text} ...{shown}")
        self._output.flush()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            with self._lock:
                if not self._stop.is_set():
                    self._draw()


NO_STATUS = StatusLine()
"""Shows nothing."""


def terminal_status() -> StatusLine:
    """Returns the status line of stderr."""
    return StatusLine(sys.stderr)
