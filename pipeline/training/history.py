"""Writes and reads the history of a run: losses and metrics by step.

`metrics.jsonl` has a line for every `log_every` steps and for every evaluation; TensorBoard's event
files have the same, and pictures. The worker of rank 0 writes, the driver reads and prints. A
resumed run drops the lines after the step where it resumes: those steps are taken again.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.runtime.wording import count
from pipeline.storage import Storage, join

METRICS = "metrics.jsonl"
EVENTS = "events"
_WRITE_EVERY_SECONDS = 10.0
_SHOWN = 3
_PICTURE_WIDTH = 900

Line = Mapping[str, Any]
"""`step`, `kind` (`train` or `validation`), and numbers by name; None for a number not finite."""


class History:
    """The history of a run, written while it goes; `flush` puts all of it onto the storage."""

    def __init__(self, output: str, *, storage: Storage, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._storage = storage
        self._output = storage.absolute(output)
        self._lines = [
            line for line in read_history(output, storage=storage) if line["step"] <= first_step
        ]
        self._written = 0.0
        # TensorBoard reads events on a disk at once; to other storage they go with checkpoints.
        is_remote = "://" in self._output
        self._remote = tempfile.TemporaryDirectory() if is_remote else None
        folder = self._remote.name if self._remote else join(self._output, EVENTS)
        # Without a suffix, two runs of one second would write to one file.
        suffix = f".{first_step:08}"
        self._events = SummaryWriter(folder, purge_step=first_step + 1, filename_suffix=suffix)
        self._folder = Path(folder)

    def add(self, line: Line) -> None:
        """Adds a line; writes the file if that was not done for ten seconds."""
        plain = {key: _plain(value) for key, value in line.items()}
        self._lines.append(plain)
        for name, value in _scalars(plain):
            self._events.add_scalar(f"{plain['kind']}/{name}", value, plain["step"])
        if time.monotonic() - self._written > _WRITE_EVERY_SECONDS:
            self._write()

    def add_picture(self, name: str, picture: Image.Image, *, step: int) -> None:
        """Adds a picture to the events, at most 900 pixels wide: each checkpoint has one."""
        shown = picture.convert("RGB")
        shown.thumbnail((_PICTURE_WIDTH, shown.height))
        pixels = np.asarray(shown)
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Puts everything onto the storage."""
        self._write()
        self._events.flush()
        if self._remote is not None:
            for path in self._folder.iterdir():
                self._storage.write(join(self._output, EVENTS, path.name), path.read_bytes())

    def close(self) -> None:
        self.flush()
        self._events.close()
        if self._remote is not None:
            self._remote.cleanup()

    def _write(self) -> None:
        text = "".join(f"{json.dumps(line)}\n" for line in self._lines)
        self._storage.write(join(self._output, METRICS), text.encode())
        self._written = time.monotonic()


def read_history(output: str, *, storage: Storage) -> list[dict[str, Any]]:
    """Reads the lines of an output; none without a history."""
    try:
        data = storage.read(join(storage.absolute(output), METRICS))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in data.decode().splitlines()]


def format_line(line: Line) -> str:
    """Writes a line for people."""
    step = f"step {line['step']:,}"
    if line["kind"] == "validation":
        metrics = [(name, value) for name, value in line.items() if name not in ("step", "kind")]
        scores = (f"{name} {_number(value)}" for name, value in metrics[:_SHOWN])
        return f"{step}  validation: {', '.join(scores)}"
    # The last layer's are enough here: their names have no number. metrics.jsonl has all.
    of_last = [(name, value) for name, value in line["losses"].items() if not name[-1].isdigit()]
    losses = ", ".join(f"{name} {_number(value)}" for name, value in of_last)
    skipped = f", {count(line['left_out'], 'step')} skipped" if line["left_out"] else ""
    return (
        f"{step}  loss {_number(line['loss'])} ({losses}), lr {_number(line['learning_rate'])}, "
        f"gradient norm {_number(line['grad_norm'])}, "
        f"{_number(line['images_per_second'])} images/s, "
        f"{100 * line['data_wait']:.0f} % of the time waiting for data{skipped}"
    )


def _scalars(line: Line) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if name in ("step", "kind"):
            continue
        numbers = value.items() if isinstance(value, Mapping) else [(None, value)]
        for inner, number in numbers:
            if number is not None:
                yield (f"{name}/{inner}" if inner else name), number


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
