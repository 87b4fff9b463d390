"""Prints the progress of maintenance."""

import sys
import time

_LINE_EVERY_SECONDS = 10.0


class ProgressLines:
    """Counts what is done, and prints the count to stderr every ten seconds."""

    def __init__(self, noun: str, *, total: int | None = None) -> None:
        self._noun = noun
        self._total = "" if total is None else f" of {total:,}"
        self._count = 0
        self._printed = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._count += count
        if time.monotonic() - self._printed >= _LINE_EVERY_SECONDS:
            self._printed = time.monotonic()
            print(f"{self._count:,}{self._total} {self._noun}", file=sys.stderr, flush=True)
