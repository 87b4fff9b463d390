"""Metrics have the names of the report, and the dashboard those of the metrics."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from drawn_runs import label_earlier_runs, label_run, new_table, report, usual_images

import pipeline
from pipeline.nightly.reporting import metrics, publish_report
from pipeline.nightly.reporting.metrics import METRICS, RunMetrics
from pipeline.nightly.settings import ReportSettings
from pipeline.runtime.run_stats import Counts, RunStats

DASHBOARD = Path(pipeline.__file__).parents[1] / "configs" / "grafana" / "labelling.json"
RUN = "20260120T020000-thisone"


@pytest.fixture
def recorded(monkeypatch) -> dict[tuple[str, str], float]:
    """The values of all metrics, by name and tag, as an agent of Ray would have them."""
    values: dict[tuple[str, str], float] = {}

    def key(metric: Any, tags: dict[str, str]) -> tuple[str, str]:
        assert tags.keys() == set(metric.info["tag_keys"])
        assert tags["table"] == "s3://bucket/table"
        return metric.info["name"], next((v for k, v in tags.items() if k != "table"), "")

    def increase(self, value, tags):
        assert value > 0
        values[key(self, tags)] = values.get(key(self, tags), 0) + value

    def put(self, value, tags):
        values[key(self, tags)] = value

    monkeypatch.setattr(metrics.Counter, "inc", increase)
    monkeypatch.setattr(metrics.Gauge, "set", put)
    monkeypatch.setattr(metrics, "_EVERY_SECONDS", 0.0)
    return values


def run_metrics(stats: RunStats) -> RunMetrics:
    return RunMetrics(stats, table="s3://bucket/table", units_planned=7)


def test_metrics_follow_the_tally(recorded):
    stats = RunStats()
    shown = run_metrics(stats)
    assert recorded == {("maskformer_units_planned", ""): 7}
    stats.counts.add(Counts(images=10, segments=30, bytes_read=99, errors=Counter(EmptyFile=2)))
    shown.update()
    stats.counts.add(Counts(images=5))
    stats.units = 1
    shown.update()
    assert recorded[("maskformer_images_total", "")] == 15
    assert recorded[("maskformer_segments_total", "")] == 30
    assert recorded[("maskformer_bytes_read_total", "")] == 99
    assert recorded[("maskformer_errors_total", "EmptyFile")] == 2
    assert recorded[("maskformer_units_committed_total", "")] == 1


def test_a_unit_that_is_done_again_is_not_counted_twice(recorded):
    stats = RunStats()
    shown = run_metrics(stats)
    unit = Counts(images=10, segments=30, bytes_read=99, errors=Counter(EmptyFile=2))
    for _ in range(3):
        stats.counts.add(unit)
        shown.update()
        stats.counts.take_back(unit)
        shown.update()
    stats.counts.add(unit)
    stats.counts.add(Counts(images=1))
    shown.update()
    assert recorded[("maskformer_images_total", "")] == 11
    assert recorded[("maskformer_errors_total", "EmptyFile")] == 2


def test_an_update_costs_nothing_between_two_seconds(recorded, monkeypatch):
    monkeypatch.setattr(metrics, "_EVERY_SECONDS", 1000.0)
    stats = RunStats()
    shown = run_metrics(stats)
    shown.update()
    stats.counts.add(Counts(images=10))
    for _ in range(1000):
        shown.update()
    assert ("maskformer_images_total", "") not in recorded


def test_the_last_values_are_those_of_the_report(recorded, tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 1)
    label_run(table, RUN, {"now": usual_images("now", 300, seed=2)})
    stats = RunStats(counts=Counts(images=301, segments=1200, errors=Counter(EmptyFile=1)))
    shown = run_metrics(stats)
    shown.update()
    plain = report(
        RUN, exit_code=3, images=301, segments=1200, errors={"EmptyFile": 1}, gpu_seconds=3600.0,
        storage_retries={"throttled": 4},
    )  # fmt: skip
    settings = ReportSettings(gpu_hour_price=2.0, sheet_images=0, strangest_images=0)
    publish_report(table, RUN, plain, settings, metrics=shown)
    found = json.loads(table.storage.read(table.file("_runs", RUN, "report.json")))
    for metric in METRICS:
        assert metric.field in found, "metrics have the names of the report's fields"
        values = {tag: v for (name, tag), v in recorded.items() if name == metric.name}
        if metric.field == "drift":
            assert values == {d["measure"]: d["index"] for d in found["drift"]}
            assert len(values) == 4
        elif metric.field in ("errors", "storage_retries"):
            assert values == found[metric.field] != {}
        else:
            value = found[metric.field]
            assert values == {"": value["total"] if metric.field == "cost" else value}


def test_the_dashboard_draws_all_metrics_and_no_others():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(r"\bray_(maskformer_\w+)", target["expr"])
            assert names, target["expr"]
            asked.update(names)
            braces = re.findall(r"\{(.*?)\}", target["expr"])
            assert braces
            assert all('table=~"$table"' in each for each in braces)
    assert asked == {metric.name for metric in METRICS}


def test_the_dashboard_is_whole():
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert {"title", "uid", "schemaVersion", "templating", "time", "refresh"} <= dashboard.keys()
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "table"}
    assert "ray_maskformer_units_planned" in variables["table"]["query"]
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["description"]
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert {"expr", "refId"} <= panel["targets"][0].keys()
