"""Poison: images that end the process that works on them, found without stopping the rest.

Functions that Ray calls ask an `AttemptTracker` before they begin, and give back a row of the kind
`lost` in place of images over which processes ended too often. What they raise becomes such a row,
too: nothing here depends on what Ray logs or raises. A unit that a worker was lost over is worked
on once more in isolation: its images are decoded by a guard, one at a time, and go to the actors
one at a time. An image with which an actor has ended twice is quarantined: its row is an error, and
nobody touches it again.
"""

import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ray

from pipeline.corpora.decoding import ImageError
from pipeline.storage import SourceChanged, StorageFault

ATTEMPTS = 4
"""Processes that may end over a task before it is given up for this pass."""
ISOLATED_ATTEMPTS = 2
"""Actors that may end over one image in isolation."""

LOST = "lost"
"""The kind of a row in place of images, where a process was lost or had no memory."""
MISTAKE = "mistake"
"""The kind of a row with a traceback of an error in our own code, which ends the run."""

Quarantined = Mapping[str, Mapping[int, ImageError]]
"""By unit and position, the errors that are to stand in the images' rows."""

ImageKey: TypeAlias = tuple[str, int]
"""Unit and position of an image that is worked on alone."""


class AttemptTracker:
    """Counts how often work was begun and not ended: a process that dies ends nothing."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[Any, list[float]] = defaultdict(list)

    def may_begin(self, keys: Sequence[Any], *, at_most: int) -> bool:
        """Notes that work on all keys begins; False, where it began that often without an end."""
        if any(len(self._begun[key]) >= at_most for key in keys):
            return False
        for key in keys:
            self._begun[key].append(self._clock())
        return True

    def ended(self, keys: Sequence[Any]) -> None:
        """Forgets work that is over, whatever its result is."""
        for key in keys:
            self._begun.pop(key, None)

    def start_pass(self) -> None:
        """Forgets all attempts."""
        self._begun.clear()

    def suspects(self) -> dict[str, dict[int, float]]:
        """Images begun at least twice and never ended, and the seconds from one to the next."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for key, times in self._begun.items():
            if len(times) > 1 and isinstance(key, tuple):
                unit_id, position = key
                found[unit_id][position] = times[1] - times[0]
        return found


@dataclass(frozen=True, kw_only=True)
class IsolationContext:
    """How units are worked on in isolation, that a worker was lost over."""

    quarantined: Quarantined = field(default_factory=dict)


def quarantine(
    suspects: Mapping[str, Mapping[int, float]],
    *,
    segment_seconds: float,
    earlier: Quarantined | None = None,
) -> Quarantined:
    """Returns the errors of images that an `AttemptTracker` suspects, and those found earlier."""

    def error(seconds: float) -> ImageError:
        if seconds >= segment_seconds:
            said = f"it is not segmented after {segment_seconds:g} s; raise segment_seconds"
            return ImageError("SegmenterHung", said)
        return ImageError("SegmenterCrashed", "the process that segmented it ended with it, twice")

    quarantined = {unit_id: dict(errors) for unit_id, errors in (earlier or {}).items()}
    for unit_id, positions in suspects.items():
        found = {position: error(seconds) for position, seconds in positions.items()}
        quarantined[unit_id] = {**quarantined.get(unit_id, {}), **found}
    return quarantined


def failure(error: BaseException) -> tuple[str, str]:
    """Returns the kind and the message of the row that stands for what a task raised."""
    cause = root_cause(error)
    if isinstance(cause, StorageFault | SourceChanged):
        return "fault", reason(error)
    if isinstance(cause, MemoryError | ChildProcessError):
        return LOST, reason(error)
    if isinstance(cause, ray.exceptions.RayError) and not isinstance(
        cause, ray.exceptions.RayTaskError
    ):
        return LOST, reason(error)
    return MISTAKE, "".join(traceback.format_exception(error))


def is_of_the_cluster(error: BaseException) -> bool:
    """Whether an error that ended a dataset is worth another pass."""
    return failure(error)[0] != MISTAKE


def reason(error: BaseException) -> str:
    """Returns what failed, in one line."""
    cause = root_cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1][:300] if lines else ''}"


def root_cause(error: BaseException) -> BaseException:
    """What was raised, without what Ray wraps around it."""
    cause = error
    while isinstance(cause, ray.exceptions.RayTaskError) and cause.cause is not None:
        cause = cause.cause
    return cause
