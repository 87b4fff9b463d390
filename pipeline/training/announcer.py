"""Prints what a run is doing, so that it is never silent for more than some seconds.

Code that begins an activity names it; a thread prints the name when the activity takes seconds, and
again every ten seconds. Lines on a terminal and in a log are the same. Starts without torch.
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
    """Prints the current activity from time to time; a context manager.

    Activities of less than four seconds are not printed: a short run prints its results only.
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
        # Ray's start may redirect stderr: lines go to a copy of it.
        with contextlib.suppress(OSError):  # stderr is no file under a test
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
        """Prints one or more lines at once."""
        with self._lock:
            self._print(line)

    def doing(self, activity: str, *, detail: Callable[[], str] | None = None) -> None:
        """Sets the current activity.

        Args:
            detail: returns its progress, when a line is printed; None prints its duration.
        """
        with self._lock:
            if activity != self._activity:
                self._began, self._was_told = self._clock(), False
            self._activity, self._detail = activity, detail

    def look(self) -> None:
        """Prints the current activity if a line is due."""
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
