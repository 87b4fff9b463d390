"""What the report of a run holds, what it costs by, and whom it tells."""

from dataclasses import dataclass, fields


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
