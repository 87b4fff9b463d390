"""Settings of a nightly run: retries, waiting files, deadline and lock."""

from dataclasses import dataclass
from datetime import datetime

from pipeline.labelling.deadline import moment


@dataclass(frozen=True, kw_only=True)
class NightlySettings:
    """Retries, waiting files, deadline and lock of a nightly run."""

    retry_errors: tuple[str, ...] = ()
    """Error classes to try again, as TooLarge after max_image_pixels was raised."""
    max_attempts: int = 3
    """Most attempts at one version of an image in error, the first one included."""
    settle_minutes: float = 10.0
    """Files younger than this may still be written; they are left for the next run."""
    success_marker: str | None = None
    """Name of an object, as _SUCCESS; folders without it are left for the next run."""
    deadline: str | None = None
    """Time of day, as 06:30, or duration, as 6h, by which the run ends; units that cannot be done
    in time are left for the next run."""
    heartbeat_seconds: float = 20.0
    """Interval at which the run renews its lock."""
    stale_seconds: float = 180.0
    """Age from which a lock that is not renewed counts as left by a dead run."""

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
