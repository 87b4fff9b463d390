"""Notes: what the workers of a run and the driver tell each other while it goes.

Two small files beside the checkpoints of one start of the workers: in `progress.json` the first
worker writes what it is doing, and `stop` is there once the driver has been asked to stop. Workers
may be on other machines, and storage is what both see. Starts without torch.
"""

import contextlib
import json
import threading
import time
from dataclasses import asdict, dataclass, replace

from pipeline.storage import Storage, StorageFault, join

_PROGRESS, _STOP = "progress.json", "stop"
_LOOK_EVERY_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the first worker is doing."""

    doing: str
    step: int = 0
    """Steps of the run that are taken."""
    unsaved: int = 0
    """How many of them no checkpoint has."""
    seconds_per_step: float | None = None
    """On average since the workers began, with validation and checkpoints; None at first."""


class WorkerNotes:
    """The first worker's side: steps only set a value, and a thread writes and looks."""

    def __init__(self, place: str, *, storage: Storage, first_step: int) -> None:
        self._place, self._storage = place, storage
        self._first: tuple[int, float] | None = None
        self._progress = Progress(doing="", step=first_step)
        self._written: Progress | None = None
        self._is_new, self._stop_asked = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def is_stop_asked(self) -> bool:
        """Whether the driver was asked to stop; some seconds late."""
        return self._stop_asked.is_set()

    def doing(self, activity: str) -> None:
        self._progress = replace(self._progress, doing=activity)
        self._is_new.set()

    def step_taken(self, step: int) -> None:
        now, is_first = time.monotonic(), self._first is None
        number, began = self._first = self._first or (step, now)
        self._progress = Progress(
            doing="training",
            step=step,
            unsaved=self._progress.unsaved + 1,
            seconds_per_step=(now - began) / (step - number) if step > number else None,
        )
        if is_first:
            self._is_new.set()

    def saved(self) -> None:
        """Says that a checkpoint has all steps so far."""
        self._progress = replace(self._progress, unsaved=0)
        self._is_new.set()

    def _run(self) -> None:
        while True:
            self._is_new.wait(_LOOK_EVERY_SECONDS)
            self._is_new.clear()
            # The next look may pass; the checkpoints say so if storage is away.
            with contextlib.suppress(StorageFault):
                self._exchange()

    def _exchange(self) -> None:
        progress = self._progress
        if progress != self._written:
            data = json.dumps(asdict(progress)).encode()
            self._storage.write(join(self._place, _PROGRESS), data)
            self._written = progress
        if self._storage.file(join(self._place, _STOP)) is not None:
            self._stop_asked.set()


class DriverNotes:
    """The driver's side."""

    def __init__(self, place: str, *, storage: Storage) -> None:
        self._place, self._storage = place, storage
        self.has_asked = False
        """Whether the workers were asked to stop."""

    def progress(self) -> Progress | None:
        """What the first worker wrote last; None before it did.

        Raises:
            StorageFault: the storage failed.
        """
        try:
            return Progress(**json.loads(self._storage.read(join(self._place, _PROGRESS))))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def ask_to_stop(self) -> bool:
        """Asks the workers to stop after a step, with a checkpoint; False where there is nothing to
        save, or they were asked before."""
        if self.has_asked:
            return False
        try:
            progress = self.progress()
            if progress is None or not progress.unsaved:
                return False
            self._storage.write(join(self._place, _STOP), b"")
        except StorageFault:
            return False
        self.has_asked = True
        return True
