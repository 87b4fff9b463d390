"""Writes `report.json` and `report.html` of a finished run, its final metrics and the webhook.

The rows were committed before. A fault of a picture, an earlier report or the webhook is shown in
the report and stops nothing.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.report import Report
from pipeline.nightly.reporting.cost import cost_of
from pipeline.nightly.reporting.drift import measure_drift
from pipeline.nightly.reporting.history import add_up, earlier_runs
from pipeline.nightly.reporting.outliers import find_outliers
from pipeline.nightly.reporting.page import PageContents, render_page
from pipeline.nightly.reporting.pictures import pictures
from pipeline.nightly.reporting.run_data import read_run
from pipeline.nightly.reporting.run_verdict import in_words, judge
from pipeline.nightly.reporting.webhook import send
from pipeline.nightly.settings import ReportSettings
from pipeline.reviews.corrections import Corrections, count_corrections
from pipeline.reviews.log import DamagedRevision, ReviewLog
from pipeline.runtime.exit_codes import ExitCode
from pipeline.table.store import TableStore


class FinalMetrics(Protocol):
    """Takes the numbers of `report.json` at the end, as `metrics.RunMetrics` does."""

    def finish(self, fields: Mapping[str, Any]) -> None: ...


def publish_report(
    table: TableStore,
    run_id: str,
    report: Report,
    settings: ReportSettings,
    *,
    reading: ReadSettings | None = None,
    metrics: FinalMetrics | None = None,
) -> list[str]:
    """Writes the reports of a run, updates metrics, and calls the webhook if it must.

    `report.json` holds all fields of `report` and more.

    Args:
        reading: settings with which the corpus was read, to find images again.

    Returns:
        Lines for the terminal.

    Raises:
        StorageFault: the table cannot be read or written now.
    """
    page, fields = _contents(table, run_id, report, settings, reading=reading or ReadSettings())
    html = render_page(page).encode("utf-8", "replace")
    html_file = table.file("_runs", run_id, "report.html")
    table.storage.write(html_file, html)
    # Last: its presence says that the run is over.
    table.storage.write(
        table.file("_runs", run_id, "report.json"), json.dumps(fields, indent=1).encode()
    )
    if metrics is not None:
        metrics.finish(fields)
    lines = [page.verdict.line]
    lines += [f"drift: {in_words(d)}" for d in page.drifts if d.level in ("watch", "alarm")]
    if page.cost is not None:
        lines.append(f"cost: {page.cost.in_words()}")
    lines.append(f"report to read: {html_file}")
    if _must_notify(page):
        text = f"Labelling run {run_id} of {table.uri}: {page.verdict.line}\n{html_file}"
        lines += filter(None, [send(text, settings=settings)])
    return lines


def _contents(
    table: TableStore,
    run_id: str,
    report: Report,
    settings: ReportSettings,
    *,
    reading: ReadSettings,
) -> tuple[PageContents, dict[str, Any]]:
    """Returns the contents of the page and the fields of `report.json`."""
    spec = table.spec() or {}
    labels = tuple(spec.get("labels", ()))
    earlier = earlier_runs(table, run_id, labels=labels, count=settings.compared_runs)
    before = add_up(earlier)
    run = read_run(
        table,
        run_id,
        labels=labels,
        usual=before,
        extremes=settings.strangest_images,
        sample=settings.sheet_images,
    )
    drifts = measure_drift(run.aggregates, before, labels=labels, settings=settings)
    outliers = find_outliers(run, count=settings.strangest_images)
    verdict = judge(report, drifts)
    cost = cost_of(report, settings)
    log = ReviewLog.of_table(table.uri, reviews=settings.reviews, storage=table.storage)
    corrections: Corrections | DamagedRevision | None
    try:
        corrections = count_corrections(table, log)
    except DamagedRevision as damage:
        corrections = damage
    wanted = [(each.unit_id, each.image_id) for each in outliers] + list(run.sample)
    now = time.time()
    shown = pictures(
        table, run_id, list(dict.fromkeys(wanted)),
        reading=reading, picture_bytes=settings.picture_bytes,
    )  # fmt: skip
    page = PageContents(
        report=report,
        verdict=verdict,
        cost=cost,
        labels=labels,
        aggregates=run.aggregates,
        earlier=earlier,
        before=before,
        drifts=drifts,
        corrections=corrections if isinstance(corrections, Corrections) else None,
        reviews_fault=str(corrections) if isinstance(corrections, DamagedRevision) else "",
        outliers=outliers,
        sheet=tuple(image_id for _, image_id in run.sample),
        pictures=shown,
        finished=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
    )
    fields = {
        **json.loads(report.to_json()),
        "finished_at": round(now, 1),
        "must_act": verdict.must_act,
        "verdict": verdict.line,
        "cost": None if cost is None else asdict(cost),
        "units_reported": run.num_units,
        "compared_with": [each.run_id for each in earlier],
        "drift": [asdict(drift) for drift in drifts],
        "reviews": corrections.to_dict()
        if isinstance(corrections, Corrections)
        else corrections and {"error": str(corrections)},
        "strangest": [
            {
                "image_id": each.image_id,
                "where": shown[each.image_id].where,
                "strangeness": each.score,
                "reasons": list(each.reasons),
            }
            for each in outliers
        ],
        **run.aggregates.to_dict(labels),
    }
    return page, fields


def _must_notify(page: PageContents) -> bool:
    """Returns True on failure or large drift."""
    ended_well = page.report.exit_code in (ExitCode.DONE, ExitCode.DONE_WITH_ERRORS)
    return not ended_well or any(drift.level == "alarm" for drift in page.drifts)
