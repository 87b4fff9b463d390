"""Counts what a run has done so far: the driver adds to it, progress and report show it."""

import collections
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.passed_over import PassedOver
from pipeline.storage.retries import Retries

_EXAMPLES = 5

# A rate over less is a rate of nothing.
_SHORTEST_SECONDS = 2.0


@dataclass
class Counts:
    """Sums over images; of a unit they are taken back when it has to be done again."""

    images: int = 0
    segments: int = 0
    bytes_read: int = 0
    """Encoded bytes."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    """Images in error by class."""
    passed_over: PassedOver = field(default_factory=PassedOver)
    """Members of archives that could be images and are none, by reason."""

    @property
    def num_errors(self) -> int:
        return self.errors.total()

    def add(self, other: "Counts") -> None:
        self.images += other.images
        self.segments += other.segments
        self.bytes_read += other.bytes_read
        self.errors.update(other.errors)
        self.passed_over.add_all(other.passed_over.to_rows())

    def take_back(self, other: "Counts") -> None:
        self.images -= other.images
        self.segments -= other.segments
        self.bytes_read -= other.bytes_read
        self.errors -= other.errors
        self.passed_over.take_back(other.passed_over.to_rows())


@dataclass
class RunStats:
    """What a run has done so far; grows while it runs."""

    counts: Counts = field(default_factory=Counts)
    """Of units that are committed or under way."""
    units: int = 0
    """Units that this run committed."""
    units_elsewhere: int = 0
    """Units that a run beside this one committed before this one came to them."""
    units_left: int = 0
    """Units that the deadline kept from beginning."""
    faults: dict[str, str] = field(default_factory=dict)
    """Units that are not done, and why."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The first images of each class of error."""
    storage_retries: collections.Counter[str] = field(default_factory=collections.Counter)
    """Requests that were made again, by the kind of their fault, as far as processes told."""
    storage_wait_seconds: float = 0.0
    """For which they waited, all of them together."""
    actors: int = 1
    """How many work at once: when the first rows come, the others have theirs almost done."""
    gpus: float = 0.0
    """That the actors hold together."""
    nodes: int = 0
    """Of the cluster, when work began."""
    _at_work_since: float | None = None
    _begun_at: float | None = None
    _last_rows_at: float = 0.0
    _arrivals: int = 0
    _images_since: int = 0

    @property
    def units_over(self) -> int:
        """Units that this run has nothing more to do for."""
        return self.units + self.units_elsewhere + self.units_left

    @property
    def has_begun(self) -> bool:
        """Whether any rows came."""
        return self._arrivals > 0

    @property
    def images_per_second(self) -> float | None:
        """From the first rows of every actor to the last rows, start-up left out.

        None where that is too short to tell.
        """
        if self._begun_at is None or self._last_rows_at - self._begun_at < _SHORTEST_SECONDS:
            return None
        return self._images_since / (self._last_rows_at - self._begun_at)

    @property
    def seconds_at_work(self) -> float:
        """Since the machines were taken, 0 where none were."""
        return 0.0 if self._at_work_since is None else time.monotonic() - self._at_work_since

    def take_machines(self, *, actors: int, gpus: float, nodes: int) -> None:
        """Says what the run holds from now on, until it ends."""
        self.actors, self.gpus, self.nodes = actors, gpus, nodes
        self._at_work_since = time.monotonic()

    def add_retries(self, retries: Iterable[Retries]) -> None:
        for each in retries:
            self.storage_retries[each.kind] += each.count
            self.storage_wait_seconds += each.seconds

    def add(self, counts: Counts, *, errors: Sequence[Mapping[str, Any]]) -> None:
        """Takes the counts of some images, and those among them that failed."""
        self.counts.add(counts)
        if counts.images:
            self._arrivals += 1
            self._last_rows_at = time.monotonic()
            self._images_since += counts.images
        if self._arrivals <= self.actors:
            self._begun_at, self._images_since = self._last_rows_at, 0
        for error in errors:
            examples = self.examples.setdefault(error["error_class"], [])
            if len(examples) < _EXAMPLES:
                examples.append({"image_id": error["image_id"], "message": error["error_message"]})
