"""Exports the numbers of `report.json` to Prometheus while a run works, under the same names.

Ray's agents add the prefix `ray_`; `configs/grafana/` draws the metrics. Run statistics decrease
when a unit has to be done again, counters cannot: they stand still until the statistics catch up.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge

from pipeline.runtime.run_stats import RunStats

_EVERY_SECONDS = 2.0
_PREFIX = "maskformer_"


@dataclass(frozen=True)
class Metric:
    """A metric, and the field of `report.json` that it shows."""

    field: str
    kind: Literal["counter", "gauge"]
    description: str
    tag: str | None = None
    """Name of the keys of a field that holds several numbers."""

    @property
    def name(self) -> str:
        return f"{_PREFIX}{self.field}{'_total' if self.kind == 'counter' else ''}"


METRICS = (
    Metric("images", "counter", "Images processed, those in error included"),
    Metric("segments", "counter", "Segments found"),
    Metric("errors", "counter", "Images in error", tag="error_class"),
    Metric("storage_retries", "counter", "Storage requests repeated", tag="fault"),
    Metric("bytes_read", "counter", "Encoded bytes of the images that were decoded"),
    Metric("units_committed", "counter", "Units of work done"),
    Metric("units_planned", "gauge", "Units of work planned for the run"),
    Metric("images_per_second", "gauge", "Images per second, without start-up"),
    Metric("exit_code", "gauge", "Exit code of the run: 0 and 3 are success, 75 means try again"),
    Metric("seconds", "gauge", "Duration of the run"),
    Metric("gpu_seconds", "gauge", "GPUs held by actors, times seconds"),
    Metric("node_seconds", "gauge", "Nodes, times seconds"),
    Metric("cost", "gauge", "Price of the run, in the currency of the settings"),
    Metric("mean_score", "gauge", "Mean over images of their mean score"),
    Metric("coverage", "gauge", "Mean over images of the share of pixels in a segment"),
    Metric("drift", "gauge", "Population stability index against earlier runs", tag="measure"),
    Metric("finished_at", "gauge", "End of the run, in seconds since the epoch"),
)
"""All metrics of a run, by the name of their field."""


class RunMetrics:
    """Shows run statistics to Prometheus; `update` is cheap and may be called at any rate."""

    def __init__(self, stats: RunStats, *, table: str, units_planned: int) -> None:
        self._stats, self._table = stats, table
        self._next_update_at = 0.0
        self._shown: dict[tuple[str, str], float] = {}
        self._of_field = {metric.field: metric for metric in METRICS}
        self._instruments = {metric.field: _instrument(metric) for metric in METRICS}
        self._show("units_planned", units_planned)

    def update(self) -> None:
        """Shows the progress, at most every two seconds."""
        now = time.monotonic()
        if now < self._next_update_at:
            return
        self._next_update_at = now + _EVERY_SECONDS
        counts = self._stats.counts
        self._show("images", counts.images)
        self._show("segments", counts.segments)
        self._show("bytes_read", counts.bytes_read)
        self._show("units_committed", self._stats.units)
        for error_class, count in counts.errors.items():
            self._show("errors", count, tag=error_class)
        for fault, count in self._stats.storage_retries.items():
            self._show("storage_retries", count, tag=fault)
        if self._stats.images_per_second is not None:
            self._show("images_per_second", self._stats.images_per_second)

    def finish(self, fields: Mapping[str, Any]) -> None:
        """Shows the numbers of `report.json`."""
        for field, metric in self._of_field.items():
            value = fields.get(field)
            if field in ("errors", "storage_retries"):
                for tag, count in (value or {}).items():
                    self._show(field, count, tag=tag)
            elif field == "drift":
                for drift in value or ():
                    if drift["index"] is not None:
                        self._show(field, drift["index"], tag=drift["measure"])
            elif field == "cost":
                if value is not None:
                    self._show(field, value["total"])
            elif value is not None:
                assert metric.tag is None
                self._show(field, value)

    def _show(self, field: str, value: float, *, tag: str = "") -> None:
        metric = self._of_field[field]
        tags = {"table": self._table} | ({metric.tag: tag} if metric.tag else {})
        instrument = self._instruments[field]
        if isinstance(instrument, Gauge):
            instrument.set(value, tags=tags)
            return
        more = value - self._shown.get((field, tag), 0)
        if more > 0:
            instrument.inc(more, tags=tags)
            self._shown[field, tag] = value


def _instrument(metric: Metric) -> Counter | Gauge:
    kind = Counter if metric.kind == "counter" else Gauge
    keys = ("table", metric.tag) if metric.tag else ("table",)
    return kind(metric.name, description=metric.description, tag_keys=keys)
