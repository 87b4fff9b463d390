"""Passes progress from the first worker to the driver, and the request to stop the other way.

Both are small files beside the checkpoints of one start of the workers: the first worker writes its
activity to `progress.json`, and the driver writes `stop`. Workers may be on other machines, so that
both sides meet in the storage. Starts without torch.
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
    """The activity and the progress of the first worker."""

    doing: str
    step: int = 0
    """Steps taken so far in the run."""
    unsaved: int = 0
    """Steps since the last checkpoint."""
    seconds_per_step: float | None = None
    """The average since the workers began, with validation and checkpoints; None at first."""


class WorkerNotes:
    """The first worker's side: steps only set a value; a thread writes and reads the files."""

    def __init__(self, folder: str, *, storage: Storage, first_step: int) -> None:
        self._folder, self._storage = folder, storage
        self._first: tuple[int, float] | None = None
        self._progress = Progress(doing="", step=first_step)
        self._written: Progress | None = None
        self._is_new, self._stop_asked = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def is_stop_asked(self) -> bool:
        """True once the driver has asked to stop; some seconds late."""
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
        """Notes that a checkpoint has all steps so far."""
        self._progress = replace(self._progress, unsaved=0)
        self._is_new.set()

    def _run(self) -> None:
        while True:
            self._is_new.wait(_LOOK_EVERY_SECONDS)
            self._is_new.clear()
            # The next exchange may succeed; if storage stays away, a checkpoint raises the fault.
            with contextlib.suppress(StorageFault):
                self._exchange()

    def _exchange(self) -> None:
        progress = self._progress
        if progress != self._written:
            data = json.dumps(asdict(progress)).encode()
            self._storage.write(join(self._folder, _PROGRESS), data)
            self._written = progress
        if self._storage.file(join(self._folder, _STOP)) is not None:
            self._stop_asked.set()


class DriverNotes:
    """The driver's side: reads the progress and asks to stop."""

    def __init__(self, folder: str, *, storage: Storage) -> None:
        self._folder, self._storage = folder, storage
        self.has_asked = False
        """True once the workers were asked to stop."""

    def progress(self) -> Progress | None:
        """Reads the progress that the first worker wrote last; None before its first.

        Raises:
            StorageFault: the storage failed.
        """
        try:
            return Progress(**json.loads(self._storage.read(join(self._folder, _PROGRESS))))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def ask_to_stop(self) -> bool:
        """Asks the workers to stop after a step with a checkpoint.

        Returns False, and does not ask, if no step is unsaved or they were asked before.
        """
        if self.has_asked:
            return False
        try:
            progress = self.progress()
            if progress is None or not progress.unsaved:
                return False
            self._storage.write(join(self._folder, _STOP), b"")
        except StorageFault:
            return False
        self.has_asked = True
        return True
