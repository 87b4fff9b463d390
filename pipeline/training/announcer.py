"""The announcer: what a run is doing, in lines for who started it, so that it is never silent.

Whoever does something says what; a thread prints it once it takes some seconds, and again every ten
seconds. Lines on a terminal and in a log are the same. Starts without torch.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from pipeline.runtime.progress import duration

_FIRST_AFTER_SECONDS = 4.0
_EVERY_SECONDS = 9.0
_LOOK_EVERY_SECONDS = 0.5


class Announcer:
    """Prints until it is closed; a context manager.

    What is over within four seconds is not announced: a short run says no more than its results.
    """

    def __init__(
        self, *, output: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._output, self._clock = output, clock
        self._copy: TextIO | None = None
        self._lock = threading.Lock()
        self._quiet_since = clock()
        self._activity: str | None = None
        self._began, self._was_told = clock(), False
        self._detail: Callable[[], str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Announcer":
        # A copy: while Ray starts, stderr is closed to what its C++ part prints.
        with contextlib.suppress(OSError):  # no file at all, as under a test
            self._copy = os.fdopen(os.dup(sys.stderr.fileno()), "w")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def say(self, line: str) -> None:
        """Prints a line, or some, at once."""
        with self._lock:
            self._print(line)

    def doing(self, activity: str, *, detail: Callable[[], str] | None = None) -> None:
        """Says what is being done from now on.

        Args:
            detail: how far it is, asked for when a line is printed; else the seconds that it took.
        """
        with self._lock:
            if activity != self._activity:
                self._began, self._was_told = self._clock(), False
            self._activity, self._detail = activity, detail

    def look(self) -> None:
        """Prints what is being done, if it is time to."""
        with self._lock:
            now = self._clock()
            quiet = now - self._quiet_since
            is_new = not self._was_told and min(quiet, now - self._began) >= _FIRST_AFTER_SECONDS
            if self._activity is None or not (is_new or quiet >= _EVERY_SECONDS):
                return
            detail = duration(now - self._began) if self._detail is None else self._detail()
            self._print(f"{self._activity}: {detail}")
            self._was_told = True

    def _print(self, line: str) -> None:
        print(line, file=self._output or self._copy or sys.stderr, flush=True)
        self._quiet_since = self._clock()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self.look()
