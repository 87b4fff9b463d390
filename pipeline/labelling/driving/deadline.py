"""Decides which units may begin before a deadline, so that all that begin are done in time."""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta

NOT_BEGUN = "not begun before the deadline"
"""The fault in place of the images of a unit that is left for another run."""

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def moment(text: str, *, now: datetime) -> datetime:
    """Returns the next time of day `06:30`, or the end of a duration such as `6h` or `1h30m`."""
    if found := _TIME.fullmatch(text):
        today = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    if found := _DURATION.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return now + timedelta(hours=hours, minutes=minutes, seconds=seconds)
    raise ValueError(
        f"deadline must be a time such as 06:30 or a duration such as 6h, got {text!r}"
    )


class DeadlineAdmission:
    """Lets a unit begin if it and all others under way will probably be done by the deadline.

    The forecast is the mean time of the units done so far; without any, only the deadline counts.
    After the first refusal only units that have begun are admitted: a reader may run twice.
    """

    def __init__(self, deadline: float, *, clock: Callable[[], float] = time.time) -> None:
        self._deadline, self._clock = deadline, clock
        self._opened_at: float | None = None
        self._begun: set[str] = set()
        self._done: set[str] = set()
        self._last_done_at = 0.0
        self._is_shut = False

    def admits(self, unit_id: str) -> bool:
        now = self._clock()
        if self._opened_at is None:
            self._opened_at = now
        if unit_id in self._begun:
            return True
        under_way = len(self._begun - self._done) + 1
        if self._is_shut or now + under_way * self._seconds_per_unit() >= self._deadline:
            self._is_shut = True
            return False
        self._begun.add(unit_id)
        return True

    def note_done(self, unit_id: str) -> None:
        self._done.add(unit_id)
        self._last_done_at = self._clock()

    def begun(self) -> set[str]:
        return self._begun

    def _seconds_per_unit(self) -> float:
        """Returns the mean time from one finished unit to the next."""
        if not self._done or self._opened_at is None:
            return 0.0
        return (self._last_done_at - self._opened_at) / len(self._done)
