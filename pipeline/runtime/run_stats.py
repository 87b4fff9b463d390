"""Counts what a run has done so far: the driver adds to it, progress and report show it."""

import collections
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.skips import SkipCounts
from pipeline.storage.retries import Retries

_EXAMPLES = 5

# A shorter time is too short for a rate.
_SHORTEST_SECONDS = 2.0


@dataclass
class Counts:
    """Sums over images; those of a unit are subtracted when it has to be done again."""

    images: int = 0
    segments: int = 0
    bytes_read: int = 0
    """Encoded bytes."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    """Images in error by class."""
    skipped: SkipCounts = field(default_factory=SkipCounts)
    """Members of archives that could be images and are none, by reason."""

    @property
    def num_errors(self) -> int:
        return self.errors.total()

    def add(self, other: "Counts") -> None:
        self.images += other.images
        self.segments += other.segments
        self.bytes_read += other.bytes_read
        self.errors.update(other.errors)
        self.skipped.add_all(other.skipped.to_rows())

    def take_back(self, other: "Counts") -> None:
        self.images -= other.images
        self.segments -= other.segments
        self.bytes_read -= other.bytes_read
        self.errors -= other.errors
        self.skipped.subtract(other.skipped.to_rows())


@dataclass
class RunStats:
    """The counts and rates of a run; they grow while it runs."""

    counts: Counts = field(default_factory=Counts)
    """Sums over units that are committed or under way."""
    units: int = 0
    """Units that this run committed."""
    units_elsewhere: int = 0
    """Units that another run committed at the same time."""
    units_left: int = 0
    """Units that the deadline kept from beginning."""
    faults: dict[str, str] = field(default_factory=dict)
    """Reasons by unit, of units that are not done."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The first images of each class of error."""
    storage_retries: collections.Counter[str] = field(default_factory=collections.Counter)
    """Repeated storage requests by the kind of their fault, as far as processes reported them."""
    storage_wait_seconds: float = 0.0
    """Seconds for which these waited, added up."""
    actors: int = 1
    """Number of actors: when the first rows come, the other actors have theirs almost done."""
    gpus: float = 0.0
    """GPUs of all actors together."""
    nodes: int = 0
    """Nodes of the cluster when work began."""
    gpus_left_alone: list[dict[str, Any]] = field(default_factory=list)
    """GPUs that the run stopped using: node, gpu, uuid, failures and error of each."""
    _at_work_since: float | None = None
    _begun_at: float | None = None
    _last_rows_at: float = 0.0
    _arrivals: int = 0
    _images_since: int = 0

    @property
    def units_over(self) -> int:
        """Returns the number of units that need no more work in this run."""
        return self.units + self.units_elsewhere + self.units_left

    @property
    def has_begun(self) -> bool:
        """Returns whether any rows came."""
        return self._arrivals > 0

    @property
    def images_per_second(self) -> float | None:
        """Returns the rate from the first rows of every actor to the last rows.

        None if that time is too short for a rate.
        """
        if self._begun_at is None or self._last_rows_at - self._begun_at < _SHORTEST_SECONDS:
            return None
        return self._images_since / (self._last_rows_at - self._begun_at)

    @property
    def seconds_at_work(self) -> float:
        """Returns the seconds since `take_machines`; 0 before it."""
        return 0.0 if self._at_work_since is None else time.monotonic() - self._at_work_since

    def take_machines(self, *, actors: int, gpus: float, nodes: int) -> None:
        """Notes the machines that the run holds from now on."""
        self.actors, self.gpus, self.nodes = actors, gpus, nodes
        self._at_work_since = time.monotonic()

    def add_retries(self, retries: Iterable[Retries]) -> None:
        for each in retries:
            self.storage_retries[each.kind] += each.count
            self.storage_wait_seconds += each.seconds

    def set_sums(self, parts: Sequence["RunStats"]) -> None:
        """Sets counts to the sums over `parts`, which other processes keep up to date."""
        counts, images_before = Counts(), self.counts.images
        for part in parts:
            counts.add(part.counts)
        self.counts = counts
        self.units = sum(part.units for part in parts)
        self.units_elsewhere = sum(part.units_elsewhere for part in parts)
        self.faults = {unit: why for part in parts for unit, why in part.faults.items()}
        self.storage_retries = sum((part.storage_retries for part in parts), collections.Counter())
        self.storage_wait_seconds = sum(part.storage_wait_seconds for part in parts)
        for part in parts:
            for error_class, images in part.examples.items():
                self._add_examples(error_class, images)
        arrivals = sum(part._arrivals for part in parts)
        if arrivals > self._arrivals:
            self._note_arrivals(arrivals, images=counts.images - images_before)

    def settle(self, counted: Counts, committed: Counts) -> None:
        """Replaces what was counted for a unit by what its files hold.

        They differ where another attempt at the unit was committed, or images were labelled twice.
        """
        self.counts.segments += committed.segments - counted.segments
        self.counts.errors.update(committed.errors)
        self.counts.errors -= counted.errors

    def add(self, counts: Counts, *, errors: Sequence[Mapping[str, Any]]) -> None:
        """Adds the counts of some images, and the errors among them."""
        self.counts.add(counts)
        if counts.images:
            self._note_arrivals(self._arrivals + 1, images=counts.images)
        for error in errors:
            example = {"image_id": error["image_id"], "message": error["error_message"]}
            self._add_examples(error["error_class"], [example])

    def add_images(self, number: int) -> None:
        """Adds images of which nothing else is counted."""
        self.add(Counts(images=number), errors=())

    def _note_arrivals(self, arrivals: int, *, images: int) -> None:
        self._last_rows_at = time.monotonic()
        self._images_since += images
        if self._arrivals < self.actors:
            self._begun_at, self._images_since = self._last_rows_at, 0
        self._arrivals = arrivals

    def _add_examples(self, error_class: str, images: Iterable[dict[str, str]]) -> None:
        examples = self.examples.setdefault(error_class, [])
        new = [image for image in images if image not in examples]
        examples.extend(new[: _EXAMPLES - len(examples)])
