"""Settings of the report: prices, comparison with earlier runs, pictures, webhook."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Contents of the report of a run, and who is notified."""

    gpu_hour_price: float | None = None
    """Price of one GPU per hour; without this and node_hour_price the report names no cost."""
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
    webhook_variable: str | None = None
    """Name of the environment variable with the URL to notify of failures and drift, as
    LABELLING_WEBHOOK. The URL may hold a secret, so it is not a setting itself."""
    webhook_seconds: float = 10.0
    """Timeout of one request to the webhook; there are three attempts."""

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
