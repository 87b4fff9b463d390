"""Reports a run in `report.json` and `report.html`, in metrics and to a webhook."""

from pipeline.nightly.reporting.publishing import publish_report
from pipeline.nightly.reporting.settings import ReportSettings

__all__ = ["ReportSettings", "publish_report"]
