"""Publishing: a run that is over to `report.json`, `report.html`, final metrics and a webhook.

The run's rows are committed before; whatever is wrong with a picture, an earlier report or the
webhook is said in the report and spoils nothing.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.report import Report
from pipeline.nightly.reporting.cost import cost_of
from pipeline.nightly.reporting.drift import drifts
from pipeline.nightly.reporting.history import earlier_runs, together
from pipeline.nightly.reporting.outliers import strangest
from pipeline.nightly.reporting.page import Findings, page
from pipeline.nightly.reporting.pictures import pictures
from pipeline.nightly.reporting.run_data import read_night
from pipeline.nightly.reporting.run_verdict import in_words, judge
from pipeline.nightly.reporting.webhook import send
from pipeline.nightly.settings import ReportSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.table.store import TableStore


class FinalMetrics(Protocol):
    """Who is told the numbers of `report.json` at the end; `metrics.RunMetrics` is one."""

    def finish(self, said: Mapping[str, Any]) -> None: ...


def publish(
    table: TableStore,
    run_id: str,
    report: Report,
    settings: ReportSettings,
    *,
    reading: ReadSettings | None = None,
    metrics: FinalMetrics | None = None,
) -> list[str]:
    """Writes the reports of a run, and tells whom it has to; lines for the terminal.

    `report.json` holds all fields of `report`, and more beside them.

    Args:
        reading: how the corpus was read, to find images of it again.

    Raises:
        StorageFault: the table cannot be read or written now.
    """
    found, said = _found(table, run_id, report, settings, reading=reading or ReadSettings())
    html = page(found).encode("utf-8", "replace")
    html_file = table.file("_runs", run_id, "report.html")
    table.storage.write(html_file, html)
    # Last: its presence says that the run is over.
    table.storage.write(
        table.file("_runs", run_id, "report.json"), json.dumps(said, indent=1).encode()
    )
    if metrics is not None:
        metrics.finish(said)
    lines = [("act: " if found.verdict.must_act else "") + found.verdict.text]
    lines += [f"drift: {in_words(d)}" for d in found.drifts if d.level in ("watch", "alarm")]
    if found.cost is not None:
        lines.append(f"cost: {found.cost.in_words()}")
    lines.append(f"report to read: {html_file}")
    if _is_news(found):
        text = f"Labelling run {run_id} of {table.uri}: {found.verdict.text}\n{html_file}"
        lines += filter(None, [send(text, settings=settings)])
    return lines


def _found(
    table: TableStore,
    run_id: str,
    report: Report,
    settings: ReportSettings,
    *,
    reading: ReadSettings,
) -> tuple[Findings, dict[str, Any]]:
    """What the page shows, and what `report.json` says."""
    spec = table.spec() or {}
    labels = tuple(spec.get("labels", ()))
    earlier = earlier_runs(table, run_id, labels=labels, count=settings.compared_runs)
    before = together(earlier)
    night = read_night(
        table,
        run_id,
        labels=labels,
        usual=before,
        extremes=settings.strangest_images,
        sample=settings.sheet_images,
    )
    moved = drifts(night.figures, before, labels=labels, settings=settings)
    strange = strangest(night, count=settings.strangest_images)
    verdict = judge(report, moved)
    cost = cost_of(report, settings)
    wanted = [(each.unit_id, each.image_id) for each in strange] + list(night.sample)
    now = time.time()
    shown = pictures(
        table, run_id, list(dict.fromkeys(wanted)),
        reading=reading, picture_bytes=settings.picture_bytes,
    )  # fmt: skip
    found = Findings(
        report=report,
        verdict=verdict,
        cost=cost,
        labels=labels,
        figures=night.figures,
        earlier=earlier,
        before=before,
        drifts=moved,
        strangest=strange,
        sheet=tuple(image_id for _, image_id in night.sample),
        pictures=shown,
        finished=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
    )
    said = {
        **json.loads(report.to_json()),
        "finished_at": round(now, 1),
        "must_act": verdict.must_act,
        "verdict": verdict.text,
        "cost": None if cost is None else asdict(cost),
        "units_reported": night.units - night.unread,
        "compared_with": [run.run_id for run in earlier],
        "drift": [asdict(drift) for drift in moved],
        "strangest": [
            {
                "image_id": each.image_id,
                "where": shown[each.image_id].where,
                "strangeness": each.strangeness,
                "reasons": list(each.reasons),
            }
            for each in strange
        ],
        **night.figures.to_dict(labels),
    }
    return found, said


def _is_news(found: Findings) -> bool:
    """Whether the webhook is to hear of it: a failure, or drift."""
    ended_well = found.report.exit_code in (ExitCode.DONE, ExitCode.DONE_WITH_ERRORS)
    return not ended_well or any(drift.level == "alarm" for drift in found.drifts)
