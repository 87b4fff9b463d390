"""Shows the progress of a run: a bar on a terminal, elsewhere a line now and then.

Reads what the driver counts, in a thread of its own, so that slow batches do not stop it.
"""

import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from pipeline.runtime.run_stats import RunStats

_LINE_EVERY_SECONDS = 30
_BAR_EVERY_SECONDS = 0.5


class Extent(Protocol):
    """The amount of work of a run; a `Plan` has it."""

    @property
    def num_images(self) -> int | None:
        """None if only reading shows it."""
        ...

    @property
    def num_bytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class ImageCount:
    """Work whose amount is a number of images."""

    num_images: int
    num_bytes: int = 0


class Display(ABC):
    """A context manager that shows how far a work is while it is open."""

    def __init__(self, *, doing: str, output: TextIO | None = None) -> None:
        self._doing = doing
        self._output = output or sys.stderr
        self._stop = threading.Event()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self._output.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[facts]}"),
                console=Console(file=self._output),
                transient=True,
            )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0, facts="")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    @abstractmethod
    def line(self) -> str:
        """Returns a line with what is done, the rate and the time left."""

    @property
    @abstractmethod
    def share(self) -> float:
        """Returns the share that is done, in [0, 1]."""

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Returns whether anything is done."""

    def _run(self) -> None:
        every = _LINE_EVERY_SECONDS if self._bar is None else _BAR_EVERY_SECONDS
        while not self._stop.wait(every):
            if self._bar is None:
                print(f"{time.strftime('%H:%M:%S')}  {self.line()}", file=self._output, flush=True)
            elif self._task is not None:
                self._bar.update(
                    self._task,
                    description=self._doing if self.has_begun else "starting",
                    completed=self.share,
                    facts=self.line(),
                )


class ProgressDisplay(Display):
    """Shows a run's stats: images, their rate and errors."""

    def __init__(
        self,
        stats: RunStats,
        plan: Extent,
        *,
        doing: str = "labelling",
        output: TextIO | None = None,
    ) -> None:
        super().__init__(doing=doing, output=output)
        self._stats, self._plan = stats, plan

    def line(self) -> str:
        counts, rate = self._stats.counts, self._stats.images_per_second
        parts = [f"{counts.images:,} images"]
        if self._plan.num_images is not None:
            parts[0] = f"{counts.images:,} of {self._plan.num_images:,} images"
        if rate is not None:
            parts.append(f"{rate:.3g} images/s")
        parts.append(f"{counts.num_errors:,} errors")
        if (seconds := self._seconds_left()) is not None:
            parts.append(f"{duration(seconds)} left")
        if not counts.images and self._doing in ("labelling", "evaluating"):
            parts.append("loading the model and segmenting the first images")
        return ", ".join(parts)

    @property
    def has_begun(self) -> bool:
        return self._stats.has_begun

    @property
    def share(self) -> float:
        """Returns the share of the images, or of the bytes if their number is not known."""
        if self._plan.num_images:
            return min(1.0, self._stats.counts.images / self._plan.num_images)
        return min(1.0, self._stats.counts.bytes_read / max(1, self._plan.num_bytes))

    def _seconds_left(self) -> float | None:
        share, rate = self.share, self._stats.images_per_second
        if rate is None or not 0 < share < 1:
            return None
        return self._stats.counts.images / rate * (1 - share) / share


class FileProgress(Display):
    """Shows how much of a file is read, for work whose speed is that of reading."""

    def __init__(
        self, num_bytes: int, *, doing: str = "reading", output: TextIO | None = None
    ) -> None:
        super().__init__(doing=doing, output=output)
        self._num_bytes, self._read = num_bytes, 0
        self._started = time.monotonic()

    def add(self, num_bytes: int) -> None:
        """Counts bytes that were just read."""
        self._read += num_bytes

    def line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-3)
        megabytes = self._read / 1e6
        parts = [
            f"{megabytes:,.1f} of {self._num_bytes / 1e6:,.1f} MB",
            f"{megabytes / seconds:.3g} MB/s",
        ]
        if 0 < self.share < 1:
            parts.append(f"{duration(seconds * (1 - self.share) / self.share)} left")
        return ", ".join(parts)

    @property
    def has_begun(self) -> bool:
        return self._read > 0

    @property
    def share(self) -> float:
        return min(1.0, self._read / max(1, self._num_bytes))


def duration(seconds: float) -> str:
    """Formats a duration for people: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
