"""Finds poison images, which crash or hang the process that works on them, and quarantines them.

Functions that workers call ask an `AttemptTracker` before they begin, and return a row of the kind
`lost` in place of images over which processes ended too often. Errors become rows as well: nothing
here depends on Ray's logs or exceptions. A unit that lost a worker is worked on again in isolation:
its images are decoded by a guard (`guard.py`) and go to the actors one at a time. An image over
which two actors ended is quarantined: its row is an error, and it is not tried again.
"""

import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.corpora.decoding import ImageError
from pipeline.labelling.failures.gpu_errors import is_gpu_memory_error
from pipeline.labelling.failures.gpu_failures import FailedGpu, Gpu, GpuFailures
from pipeline.runtime.remote_objects import loaded_ray
from pipeline.storage import SourceChanged, StorageFault

ATTEMPTS = 4
"""Attempts at a task in one pass."""
ISOLATED_ATTEMPTS = 2
"""Attempts at one image in isolation."""

LOST = "lost"
"""The kind of a row in place of images, where a process was lost or had no memory."""
MISTAKE = "mistake"
"""The kind of a row with the traceback of an error in our own code, which ends the run."""

Quarantined = Mapping[str, Mapping[int, ImageError]]
"""By unit and position, the errors that are to stand in the images' rows."""


class AttemptTracker:
    """Counts attempts that began and never ended, since their process died."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[Any, list[float]] = defaultdict(list)
        self._gpus = GpuFailures()

    def may_begin(self, keys: Sequence[Any], *, at_most: int) -> bool:
        """Notes an attempt at all keys, unless one of them has had `at_most` without an end."""
        if any(len(self._begun[key]) >= at_most for key in keys):
            return False
        for key in keys:
            self._begun[key].append(self._clock())
        return True

    def ended(self, keys: Sequence[Any], *, gpu: Gpu | None = None) -> None:
        """Forgets the attempts at keys whose work is over, whatever the result.

        Args:
            gpu: the GPU that did the work; None where it was none, as of images without pixels.
        """
        for key in keys:
            self._begun.pop(key, None)
        if gpu is not None:
            self._gpus.succeeded(keys, gpu=gpu)

    def start_pass(self, *, is_isolated: bool = False) -> None:
        """Forgets all attempts."""
        self._begun.clear()
        self._gpus.start_pass(is_isolated=is_isolated)

    def gpu_failed(self, gpu: Gpu, *, keys: Sequence[Any], error: str) -> None:
        """Notes a failure of a GPU while work on the keys was under way; see `GpuFailures`."""
        self._gpus.add(gpu, keys=keys, error=error)

    def is_left_alone(self, gpu: Gpu) -> bool:
        return self._gpus.is_left_alone(gpu)

    def gpus_left_alone(self, *, is_last_chance: bool = False) -> list[FailedGpu]:
        """Returns the GPUs that are to do no more work.

        Args:
            is_last_chance: takes back those of which too little is proven.
        """
        if is_last_chance:
            self._gpus.give_another_chance()
        return self._gpus.left_alone()

    def suspects(self) -> dict[str, dict[int, float]]:
        """Returns images with at least two attempts and no end, and the seconds between the two.

        Without images that failed on GPUs alone that are at fault.
        """
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for key, times in self._begun.items():
            if len(times) > 1 and isinstance(key, tuple) and not self._gpus.is_blamed(key):
                unit_id, position = key
                found[unit_id][position] = times[1] - times[0]
        return found


@dataclass(frozen=True, kw_only=True)
class IsolationContext:
    """The parameters of a pass over units that lost a worker."""

    quarantined: Quarantined = field(default_factory=dict)


def quarantine(
    suspects: Mapping[str, Mapping[int, float]],
    *,
    segment_seconds: float,
    earlier: Quarantined | None = None,
) -> Quarantined:
    """Returns the errors of the suspects of an `AttemptTracker`, added to `earlier`."""

    def error(seconds: float) -> ImageError:
        if seconds >= segment_seconds:
            message = f"it is not segmented after {segment_seconds:g} s; raise segment_seconds"
            return ImageError("SegmenterHung", message)
        return ImageError("SegmenterCrashed", "two processes ended while they segmented it")

    quarantined = {unit_id: dict(errors) for unit_id, errors in (earlier or {}).items()}
    for unit_id, positions in suspects.items():
        found = {position: error(seconds) for position, seconds in positions.items()}
        quarantined[unit_id] = {**quarantined.get(unit_id, {}), **found}
    return quarantined


def failure(error: BaseException) -> tuple[str, str]:
    """Returns the kind and the message of the row in place of a task's rows."""
    cause = root_cause(error)
    if isinstance(cause, StorageFault | SourceChanged):
        return "fault", reason(error)
    if isinstance(cause, MemoryError | ChildProcessError) or is_gpu_memory_error(cause):
        return LOST, reason(error)
    ray = loaded_ray()
    is_of_ray = ray is not None and isinstance(cause, ray.exceptions.RayError)
    if is_of_ray and not _is_of_task(cause):
        return LOST, reason(error)
    return MISTAKE, "".join(traceback.format_exception(error))


def is_of_the_cluster(error: BaseException) -> bool:
    """Returns whether an error that ended a dataset is worth another pass."""
    return failure(error)[0] != MISTAKE


def reason(error: BaseException) -> str:
    """Returns an error's class and message in one line."""
    cause = root_cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1][:300] if lines else ''}"


def root_cause(error: BaseException) -> BaseException:
    """Returns the error that a task raised, without the errors that Ray wraps around it."""
    cause: Any = error
    while _is_of_task(cause) and cause.cause is not None:
        cause = cause.cause
    return cause


def _is_of_task(error: BaseException) -> bool:
    ray = loaded_ray()
    return ray is not None and isinstance(error, ray.exceptions.RayTaskError)
