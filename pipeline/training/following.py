"""Following: what the workers write down, on the terminal of who started them."""

import sys
import threading
from typing import Any

from pipeline.storage import Storage, StorageFault
from pipeline.training.history import described, read_history

_LOOK_EVERY_SECONDS = 3.0


class FollowedHistory:
    """Prints the lines of a history as they come, until it is closed; a context manager.

    Reads what is on the storage: workers may be on other machines, and their output goes into
    Ray's logs.
    """

    def __init__(self, output: str, *, storage: Storage) -> None:
        self._output, self._storage = output, storage
        self._seen = read_history(output, storage=storage)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "FollowedHistory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._print()

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self._print()

    def _print(self) -> None:
        try:
            lines = read_history(self._output, storage=self._storage)
        except StorageFault:
            return  # the next look may see more, and the workers say if it does not pass
        known = _num_equal(self._seen, lines)
        if known < len(self._seen):
            step = lines[known - 1]["step"] if known else 0
            print(f"workers were started again after step {step:,}", file=sys.stderr)
        for line in lines[known:]:
            print(described(line), file=sys.stderr, flush=True)
        self._seen = lines


def _num_equal(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> int:
    """How many lines they begin with alike."""
    for count, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return count
    return min(len(before), len(now))
