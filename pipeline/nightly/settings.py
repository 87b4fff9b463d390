"""Settings of nightly runs: which files, until when, what is reported, how a job is submitted."""

from dataclasses import dataclass, fields
from datetime import datetime

from pipeline.labelling.deadline import moment
from pipeline.labelling.settings import PARTS as LABELLING


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


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What the report of a run says, and whom it tells."""

    gpu_hour_price: float | None = None
    """Price of one GPU for an hour; without this and the next, the report names no cost."""
    node_hour_price: float | None = None
    """Price of one node for an hour, its GPUs left out."""
    currency: str = "USD"
    """Of the prices."""
    compared_runs: int = 7
    """Earlier runs that labelled something, from the latest back, to compare with."""
    drift_watch: float = 0.1
    """Population stability index from which the report says that something moves."""
    drift_alarm: float = 0.25
    """Population stability index from which somebody has to look."""
    strangest_images: int = 10
    """Images that are least like the others, to show with the reason."""
    sheet_images: int = 12
    """Images of the contact sheet."""
    picture_bytes: int = 2**25
    """Most bytes to read for one picture; what lies deeper in an archive is not shown."""
    webhook_variable: str | None = None
    """Environment variable with the URL that hears of failures and drift, as LABELLING_WEBHOOK; the
    URL itself may hold a secret and is no setting."""
    webhook_seconds: float = 10.0
    """How long to wait for an answer of the webhook, three times at most."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{field.name} must not be below 0, got {value}")
        if self.drift_alarm < self.drift_watch:
            raise ValueError(
                f"drift_alarm must not be below drift_watch, got {self.drift_alarm} and "
                f"{self.drift_watch}"
            )
        if max(self.strangest_images, self.sheet_images) > 24:
            raise ValueError(
                "strangest_images and sheet_images must be at most 24, or the report is too large "
                f"to mail; got {self.strangest_images} and {self.sheet_images}"
            )
        if self.webhook_variable is not None and "/" in self.webhook_variable:
            raise ValueError(
                "webhook_variable must be the name of an environment variable, not a URL"
            )


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """Where a job is submitted, and under which id."""

    submission_id: str
    """The same for all attempts at the same thing, as the date of a nightly run."""
    address: str | None = None
    """Of the cluster's dashboard, as `http://head:8265`; RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    working_dir: str | None = "."
    """Folder that travels to the cluster and in which the command runs; `null` for none."""


PARTS = (*LABELLING, NightlySettings, ReportSettings)
"""The parts of a nightly run's settings."""

SUBMIT = (SubmitSettings,)
"""The parts of a submission's settings."""
