"""Computes the cost of a run from the prices of GPUs and nodes per hour."""

from dataclasses import dataclass

from pipeline.labelling.report import Report
from pipeline.nightly.settings import ReportSettings

_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Amounts in one currency; resources without a price cost 0."""

    currency: str
    gpus: float
    nodes: float
    total: float
    per_million_images: float | None

    @property
    def amount(self) -> str:
        return f"{self.total:,.2f} {self.currency}"

    def in_words(self) -> str:
        text = self.amount
        if self.per_million_images is not None:
            text += f", {self.per_million_images:,.0f} per million images"
        return text


def cost_of(report: Report, settings: ReportSettings) -> Cost | None:
    """Returns the cost of a run; None if no price is set."""
    if settings.gpu_hour_price is None and settings.node_hour_price is None:
        return None
    gpus = report.gpu_seconds / _HOUR * (settings.gpu_hour_price or 0)
    nodes = report.node_seconds / _HOUR * (settings.node_hour_price or 0)
    total = gpus + nodes
    return Cost(
        currency=settings.currency,
        gpus=round(gpus, 4),
        nodes=round(nodes, 4),
        total=round(total, 4),
        per_million_images=round(total / report.images * 1e6, 2) if report.images else None,
    )
