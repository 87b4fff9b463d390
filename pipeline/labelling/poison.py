"""Poison: images that end the process that works on them, found without stopping the rest.

A unit over which a worker died is worked on once more with care: its images are decoded by a guard,
one at a time, and go to the actors one at a time, which tell a witness of each. An image with which
an actor has ended twice is condemned: its row is an error, and nobody touches it again.
"""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.corpora.decoding import ImageError
from pipeline.storage import SourceChanged, StorageFault

_LOGGER = "ray.data._internal.execution.streaming_executor_state"

Condemned = Mapping[str, Mapping[int, ImageError]]
"""By unit and position, the errors that are to stand in the images' rows."""


class Witness:
    """Knows which images actors have begun and not ended."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[tuple[str, int], list[float]] = defaultdict(list)

    def begins(self, unit_id: str, position: int) -> None:
        self._begun[unit_id, position].append(self._clock())

    def ended(self, unit_id: str, position: int) -> None:
        self._begun.pop((unit_id, position), None)

    def suspects(self) -> dict[str, dict[int, float]]:
        """Images begun at least twice and never ended, and the seconds from one to the next."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for (unit_id, position), times in self._begun.items():
            if len(times) > 1:
                found[unit_id][position] = times[1] - times[0]
        return found


@dataclass(frozen=True, kw_only=True)
class Care:
    """How units are worked on that a worker died over."""

    witness: Any
    """The actor that a `Witness` lives in."""
    condemned: Condemned = field(default_factory=dict)


def condemn(suspects: Mapping[str, Mapping[int, float]], *, segment_seconds: float) -> Condemned:
    """The errors of images that a `Witness` suspects."""

    def error(seconds: float) -> ImageError:
        if seconds >= segment_seconds:
            said = f"it is not segmented after {segment_seconds:g} s; raise segment_seconds"
            return ImageError("SegmenterHung", said)
        return ImageError("SegmenterCrashed", "the process that segmented it ended with it, twice")

    return {
        unit_id: {position: error(seconds) for position, seconds in positions.items()}
        for unit_id, positions in suspects.items()
    }


@contextlib.contextmanager
def deaths() -> Iterator[list[BaseException]]:
    """What ended tasks of Ray Data since, while it goes on without their blocks.

    Errors that are no fault of machine, storage or image end the dataset: they are ours.
    """
    collector = _Collector()
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(collector)
    try:
        yield collector.errors
    finally:
        logger.removeFilter(collector)


def ends_a_task_only(error: BaseException) -> bool:
    """Whether an error of a task is one that workers may have, not a mistake of ours."""
    cause = root_cause(error)
    if isinstance(cause, StorageFault | SourceChanged | MemoryError | ChildProcessError):
        return True
    return isinstance(cause, ray.exceptions.RayError) and not isinstance(
        cause, ray.exceptions.RayTaskError
    )


def root_cause(error: BaseException) -> BaseException:
    """What was raised, without what Ray wraps around it."""
    cause = error
    while isinstance(cause, ray.exceptions.RayTaskError) and cause.cause is not None:
        cause = cause.cause
    return cause


class _Collector:
    """Keeps them from the terminal, too: Ray Data tells of them in its log alone."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __call__(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if not ends_a_task_only(error):
            raise error  # through the logger to the executor, which has no other way to be ended
        self.errors.append(error)
        return False
