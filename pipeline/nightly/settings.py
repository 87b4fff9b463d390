"""What a nightly run takes on, until when, and how it keeps others away."""

from dataclasses import dataclass
from datetime import datetime

from pipeline.labelling.deadline import moment


@dataclass(frozen=True, kw_only=True)
class NightlySettings:
    """What a night takes on, until when, and how it keeps others away."""

    retry_errors: tuple[str, ...] = ()
    """Classes of images in error to try again, as TooLarge after max_image_pixels was raised."""
    max_attempts: int = 3
    """Most rows that an image in error gets for one version of it, the first one counted."""
    settle_minutes: float = 10.0
    """Younger files wait for the next night: they may still be written."""
    success_marker: str | None = None
    """Name of an object, as _SUCCESS, without which the files beside it wait for the next night."""
    deadline: str | None = None
    """Time of day, as 06:30, or duration, as 6h, by which the run is over; what has not begun in
    time is left for the next night."""
    heartbeat_seconds: float = 20.0
    """How often the run says in the lock that it is alive."""
    stale_seconds: float = 180.0
    """A lock that has not changed for so long belongs to a run that is dead."""

    def __post_init__(self) -> None:
        if self.max_attempts < 2:
            raise ValueError(f"max_attempts must be at least 2, got {self.max_attempts}")
        if self.settle_minutes < 0:
            raise ValueError(f"settle_minutes must not be below 0, got {self.settle_minutes}")
        if self.success_marker is not None and (
            not self.success_marker or "/" in self.success_marker
        ):
            raise ValueError(
                f"success_marker must be a file's name, as _SUCCESS, got {self.success_marker!r}"
            )
        if not 0 < self.heartbeat_seconds <= self.stale_seconds / 3:
            raise ValueError(
                "heartbeat_seconds must be above 0 and at most a third of stale_seconds, got "
                f"{self.heartbeat_seconds} and {self.stale_seconds}"
            )
        if self.deadline is not None:
            moment(self.deadline, now=datetime.now())
