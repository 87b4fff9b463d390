"""Reporting: what a run did to `report.json`, `report.html`, metrics and a webhook."""

from pipeline.nightly.reporting.publishing import publish

__all__ = ["publish"]
