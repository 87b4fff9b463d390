"""Reporting: what a run did to `report.json`, `report.html`, metrics and a webhook."""

from pipeline.nightly.reporting.publishing import publish
from pipeline.nightly.reporting.settings import ReportSettings

__all__ = ["ReportSettings", "publish"]
