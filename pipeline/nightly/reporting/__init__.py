"""Reports a run in `report.json` and `report.html`, in metrics and to a webhook."""

from pipeline.nightly.reporting.publishing import publish_report

__all__ = ["publish_report"]
