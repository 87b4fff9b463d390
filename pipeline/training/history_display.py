"""Prints the history that the workers write, while they train."""

import threading
from functools import partial
from typing import Any

from pipeline.runtime.progress import duration
from pipeline.storage import Storage, StorageFault
from pipeline.training.announcer import Announcer
from pipeline.training.history import format_line, read_history
from pipeline.training.notes import DriverNotes, Progress

_LOOK_EVERY_SECONDS = 3.0


class HistoryDisplay:
    """Prints new lines of a history, and the workers' activity meanwhile; a context manager.

    Reads from the storage: workers may be on other machines, and their output goes into Ray's
    logs.
    """

    def __init__(
        self, output: str, *, storage: Storage, announcer: Announcer, num_steps: int
    ) -> None:
        self._output, self._storage = output, storage
        self._announcer, self._num_steps = announcer, num_steps
        self._notes: DriverNotes | None = None
        self._seen = read_history(output, storage=storage)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "HistoryDisplay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def of_workers(self, notes: DriverNotes) -> None:
        """Reads the notes of these workers from now on."""
        self._notes = notes

    def look(self) -> None:
        """Prints new lines."""
        try:
            lines = read_history(self._output, storage=self._storage)
            progress = None if self._notes is None else self._notes.progress()
        except StorageFault:
            return  # the next look may succeed; if not, the workers raise the fault
        known = _num_equal(self._seen, lines)
        if known < len(self._seen):
            step = lines[known - 1]["step"] if known else 0
            self._announcer.say(f"the workers were started again after step {step:,}")
        for line in lines[known:]:
            self._announcer.say(format_line(line))
        self._seen = lines
        if progress is not None:
            detail = None if progress.doing != "training" else partial(self._how_far, progress)
            self._announcer.doing(progress.doing, detail=detail)

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self.look()

    def _how_far(self, progress: Progress) -> str:
        position = f"step {progress.step:,} of {self._num_steps:,}"
        if progress.seconds_per_step is None:
            return position
        left = duration((self._num_steps - progress.step) * progress.seconds_per_step)
        return f"{position}, {progress.seconds_per_step:.3g} s a step, {left} left"


def _num_equal(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> int:
    """Counts the equal lines at the beginning of both."""
    for count, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return count
    return min(len(before), len(now))
