"""Storage retries: repeats a request as the kind of its fault calls for.

Used by `storage.py` for every request. Counts its retries for the whole process: `labelling`
carries the counts of tasks to the driver, into the report.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.storage.faults import (
    FaultKind,
    SourceChanged,
    StorageFault,
    advice,
    fault_kind,
    redacted_message,
    retry_after,
)

T = TypeVar("T")

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 20.0
_LONGEST_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The bounds on one request, with all its attempts."""

    attempts: int
    seconds: float
    """No attempt begins later than this."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """The number of retries for one kind of fault."""

    kind: str
    count: int
    seconds: float
    """Spent waiting."""


def retried(
    action: Callable[[], T],
    *,
    what: str,
    retry_policy: RetryPolicy,
    renew: Callable[[], None] | None = None,
    hidden: Iterable[str | None] = (),
) -> T:
    """Returns the action's result, after as many attempts as faults and policy allow.

    Args:
        what: the action and its location, for the message.
        renew: gets new credentials where the old ones have expired; called once.
        hidden: secrets that the message must not show.

    Raises:
        FileNotFoundError: there is no such object; and mistakes in the action itself.
        StorageFault: with the fault and what to do about it.
    """
    began = time.monotonic()
    attempt, wait = 1, 0.0
    while True:
        try:
            return action()
        except (StorageFault, SourceChanged, FileNotFoundError):
            raise
        except Exception as error:
            kind = fault_kind(error)
            if kind is None:
                raise
            if kind is FaultKind.NOT_FOUND:
                raise FileNotFoundError(
                    f"{what}: {redacted_message(error, hidden=hidden)}"
                ) from error
            if kind is FaultKind.EXPIRED and renew is not None:
                renew()
                renew = None
                _count(kind, seconds=0.0)
                continue
            wait = _next_wait(kind, attempt=attempt, before=wait, asked_for=retry_after(error))
            spent = time.monotonic() - began
            is_last = attempt >= retry_policy.attempts or spent + wait > retry_policy.seconds
            if is_last or not kind.may_pass:
                tried = f" ({attempt} attempts in {spent:.0f} s)" if attempt > 1 else ""
                remedy = advice(kind, error)
                message = f"{what}: {redacted_message(error, hidden=hidden)}{tried}"
                raise StorageFault(f"{message}; {remedy}" if remedy else message) from error
            _count(kind, seconds=wait)
            time.sleep(wait)
            attempt += 1


def take_retries() -> list[Retries]:
    """Returns the retries of this process since the last call."""
    with _lock:
        taken = [Retries(kind=kind, count=n, seconds=s) for kind, (n, s) in _counts.items()]
        _counts.clear()
    return taken


_lock = threading.Lock()
_counts: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))


def _count(kind: FaultKind, *, seconds: float) -> None:
    with _lock:
        count, waited = _counts[kind.value]
        _counts[kind.value] = count + 1, waited + seconds


def _next_wait(kind: FaultKind, *, attempt: int, before: float, asked_for: float) -> float:
    """Returns the seconds until the next attempt; random, to spread clients out."""
    first = _FIRST_WAIT_SECONDS
    if kind is FaultKind.THROTTLED:
        # Decorrelated jitter: grows faster than doubling on average, and spreads clients out.
        wait = random.uniform(2 * first, max(6 * first, 3 * before))
    else:
        wait = first * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return max(min(wait, _LONGEST_WAIT_SECONDS), min(asked_for, _LONGEST_RETRY_AFTER_SECONDS))
