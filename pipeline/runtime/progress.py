"""Shows the progress of a run: a bar on a terminal, elsewhere a line now and then.

Reads the stats that the driver keeps, in a thread of its own, so that slow batches do not stop it.
"""

import sys
import threading
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

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


class ProgressDisplay:
    """A context manager that shows a run's stats while it is open."""

    def __init__(
        self,
        stats: RunStats,
        plan: Extent,
        *,
        doing: str = "labelling",
        output: TextIO | None = None,
    ) -> None:
        self._stats, self._plan, self._doing = stats, plan, doing
        self._output = output or sys.stderr
        self._started = time.monotonic()
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

    def __enter__(self) -> "ProgressDisplay":
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

    def line(self) -> str:
        """Returns a line with images done, rate, errors and time left."""
        counts, rate = self._stats.counts, self._stats.images_per_second
        parts = [f"{counts.images:,} images"]
        if self._plan.num_images is not None:
            parts[0] = f"{counts.images:,} of {self._plan.num_images:,} images"
        if rate is not None:
            parts.append(f"{rate:.3g} images/s")
        parts.append(f"{counts.num_errors:,} errors")
        if (seconds := self._seconds_left()) is not None:
            parts.append(f"{duration(seconds)} left")
        return ", ".join(parts)

    def _run(self) -> None:
        every = _LINE_EVERY_SECONDS if self._bar is None else _BAR_EVERY_SECONDS
        while not self._stop.wait(every):
            if self._bar is None:
                print(f"{time.strftime('%H:%M:%S')}  {self.line()}", file=self._output, flush=True)
            elif self._task is not None:
                started = self._stats.has_begun
                self._bar.update(
                    self._task,
                    description=self._doing if started else "starting",
                    completed=self._share(),
                    facts=self.line(),
                )

    def _share(self) -> float:
        """Returns the share that is done, in [0, 1]: of the images, or of bytes if not known."""
        if self._plan.num_images:
            return min(1.0, self._stats.counts.images / self._plan.num_images)
        return min(1.0, self._stats.counts.bytes_read / max(1, self._plan.num_bytes))

    def _seconds_left(self) -> float | None:
        share, rate = self._share(), self._stats.images_per_second
        if rate is None or not 0 < share < 1:
            return None
        return self._stats.counts.images / rate * (1 - share) / share


def duration(seconds: float) -> str:
    """Formats a duration for people: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
