"""Settings of nightly runs: retries, deadline and lock, the report, and submission."""

from dataclasses import dataclass, fields
from datetime import datetime

from pipeline.labelling.driving.deadline import moment
from pipeline.labelling.settings import PARTS as LABELLING
from pipeline.runtime.bounds import check_at_least


@dataclass(frozen=True, kw_only=True)
class NightlySettings:
    """Retries, waiting files, deadline and lock of a nightly run."""

    retry_errors: tuple[str, ...] = ()
    """Classes of errors to try again, as NotFound,TooLarge."""
    max_attempts: int = 3
    """Most attempts at one version of an image in error, the first included."""
    settle_minutes: float = 10.0
    """Younger files wait for the next run: they may still be written."""
    success_marker: str | None = None
    """Files wait until an object of this name, as _SUCCESS, is beside them."""
    deadline: str | None = None
    """Time of day (06:30) or duration (6h) by which the run is over. Units that could not be done
    by then are left for the next run."""
    heartbeat_seconds: float = 20.0
    """Interval at which the run renews its lock."""
    stale_seconds: float = 180.0
    """Age from which a lock that is not renewed counts as left by a dead run."""

    def __post_init__(self) -> None:
        check_at_least(2, self, "max_attempts")
        check_at_least(0, self, "settle_minutes")
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
    """Contents of the report of a run, and who is notified."""

    gpu_hour_price: float | None = None
    """Price of one GPU per hour; without prices no cost is named."""
    node_hour_price: float | None = None
    """Price of one node per hour, without its GPUs."""
    currency: str = "USD"
    """Currency of the prices."""
    compared_runs: int = 7
    """Number of earlier runs to compare with, the latest that labelled images."""
    drift_watch: float = 0.1
    """Population stability index from which the report names a small change."""
    drift_alarm: float = 0.25
    """Population stability index from which the report asks for action."""
    strangest_images: int = 10
    """Number of most unusual images to show, with reasons."""
    sheet_images: int = 12
    """Number of images on the contact sheet."""
    picture_bytes: int = 2**25
    """Most bytes to read for one picture; images deeper in an archive are not shown."""
    reviews: str | None = None
    """Folder of the table's reviews, if they are not in the table."""
    webhook_variable: str | None = None
    """Environment variable with the URL to tell of failures and drift. The URL itself may hold a
    secret and is no setting."""
    webhook_seconds: float = 10.0
    """Timeout of one request to the webhook; there are three attempts."""

    def __post_init__(self) -> None:
        numbers = (f.name for f in fields(self) if isinstance(getattr(self, f.name), int | float))
        check_at_least(0, self, *numbers)
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
    """Cluster and id of a submitted job."""

    submission_id: str
    """Same id for all attempts at one job, as the date of a nightly run."""
    address: str | None = None
    """Dashboard, as http://head:8265; by default RAY_API_SERVER_ADDRESS. Else RAY_ADDRESS."""
    working_dir: str | None = "."
    """Folder that is uploaded to the cluster; the command runs in it."""


PARTS = (*LABELLING, NightlySettings, ReportSettings)
"""The parts of a nightly run's settings."""

SUBMIT = (SubmitSettings,)
"""The parts of a submission's settings."""
