"""Counts the failures of GPUs, and tells whether the card or the images are at fault.

The run's `AttemptTracker` (`poison.py`) holds a `GpuFailures`, to which actors report
(`gpu_actors.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

_MOST_FAILURES = 2
_MOST_FAILURES_IN_ISOLATION = 3
"""There each image is work of its own, and several images of a unit may end processes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as Ray knows it."""

    node_id: str
    index: str
    """Its name on its node, a number."""
    node: str = field(compare=False)
    """The node's address."""
    uuid: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"GPU {self.index}{f' ({self.uuid})' if self.uuid else ''} of node {self.node}"


@dataclass(frozen=True, kw_only=True)
class FailedGpu:
    """A GPU that is left alone, and why."""

    gpu: Gpu
    failures: int
    error: str
    """The last one, in one line."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "node": self.gpu.node,
            "gpu": self.gpu.index,
            "uuid": self.gpu.uuid,
            "failures": self.failures,
            "error": self.error,
        }


class GpuFailures:
    """The failures of each GPU in a run.

    A failure is proven where no image was involved, and where the work that was under way has
    succeeded since. Others are open until the card does other work: the images may be at fault.
    Work that fails on a second card, which does other work, is at fault itself. A card with two
    failures, proven or open, is left alone.
    """

    def __init__(self) -> None:
        self._most = _MOST_FAILURES
        self._proven: Counter[Gpu] = Counter()
        self._open: dict[Gpu, list[set[Hashable]]] = defaultdict(list)
        """Work that a card failed at since it last did any, as far as it was not the same."""
        self._unproven: list[tuple[Gpu, set[Hashable]]] = []
        self._failed_on: dict[Hashable, set[Gpu]] = defaultdict(set)
        self._left_alone: set[Gpu] = set()
        self._count: Counter[Gpu] = Counter()
        self._last: dict[Gpu, tuple[Gpu, str]] = {}

    def add(self, gpu: Gpu, *, keys: Iterable[Hashable], error: str) -> None:
        """Notes a failure while work on the keys was under way; without keys, at a start."""
        work = set(keys)
        self._count[gpu] += 1
        self._last[gpu] = (gpu, error)
        if work:
            self._suspect(gpu, work)
        else:
            self._proven[gpu] += 1
        self._judge(gpu, at_most=self._most)

    def _suspect(self, gpu: Gpu, work: set[Hashable]) -> None:
        for key in work:
            self._failed_on[key].add(gpu)
        self._unproven.append((gpu, set(work)))
        for suspected in self._open[gpu]:
            if suspected & work:
                suspected &= work  # the same work again: that which was there both times
                return
        self._open[gpu].append(work)

    def _judge(self, gpu: Gpu, *, at_most: int) -> None:
        proven = self._proven[gpu]
        if proven >= _MOST_FAILURES or proven + len(self._open[gpu]) >= at_most:
            self._left_alone.add(gpu)

    def succeeded(self, keys: Iterable[Hashable], *, gpu: Gpu) -> None:
        """Notes the end of work on the keys, on a card."""
        work = set(keys)
        if gpu not in self._left_alone:
            failed_here = set().union(*self._open.pop(gpu, ()))
            self._acquit({key for key in failed_here - work if len(self._failed_on[key]) > 1})
        if not work & self._failed_on.keys():
            return
        proven = [each for each, left in self._unproven if left and left <= work]
        self._unproven = [(each, left - work) for each, left in self._unproven if left - work]
        for key in work:
            self._failed_on.pop(key, None)
        for each in proven:
            self._proven[each] += 1
            self._open[each] = [other for other in self._open[each] if not other & work]
            self._judge(each, at_most=_MOST_FAILURES)

    def _acquit(self, at_fault: set[Hashable]) -> None:
        """Drops what cards are suspected of over work that is at fault itself."""
        self._unproven = [(gpu, left) for gpu, left in self._unproven if not left & at_fault]
        for gpu, suspicions in self._open.items():
            self._open[gpu] = [each for each in suspicions if not each & at_fault]
            if self._proven[gpu] + len(self._open[gpu]) < _MOST_FAILURES:
                self._left_alone.discard(gpu)

    def start_pass(self, *, is_isolated: bool) -> None:
        """Forgets what cards in use are suspected of: other passes cut the work otherwise."""
        self._open = defaultdict(
            list, {gpu: each for gpu, each in self._open.items() if gpu in self._left_alone}
        )
        self._most = _MOST_FAILURES_IN_ISOLATION if is_isolated else _MOST_FAILURES

    def give_another_chance(self) -> None:
        """Takes cards back of which too little is proven; for a run that would have none left."""
        self._open.clear()
        self._left_alone = {each for each in self._left_alone if self._proven[each] > 1}

    def is_left_alone(self, gpu: Gpu) -> bool:
        return gpu in self._left_alone

    def left_alone(self) -> list[FailedGpu]:
        return [
            FailedGpu(gpu=gpu, failures=self._count[gpu], error=error)
            for gpu, error in self._last.values()
            if gpu in self._left_alone
        ]

    def is_blamed(self, key: Hashable) -> bool:
        """Returns whether work on a key failed, and on cards that are left alone only."""
        gpus = self._failed_on.get(key, set())
        return bool(gpus) and gpus <= self._left_alone
