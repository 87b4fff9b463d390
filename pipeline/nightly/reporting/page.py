"""Renders `report.html`, which says in its first line whether somebody has to act.

The file stands alone, to be opened or mailed: it has no scripts and no links to other files. The
templates escape all values, so that a name in the corpus is never a tag, an attribute or a script.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from pipeline.labelling.report import Report
from pipeline.nightly.reporting.cost import Cost
from pipeline.nightly.reporting.drift import Drift, Level
from pipeline.nightly.reporting.history import EarlierRun
from pipeline.nightly.reporting.outliers import Outlier
from pipeline.nightly.reporting.pictures import Picture
from pipeline.nightly.reporting.run_aggregates import RunAggregates, shares
from pipeline.nightly.reporting.run_verdict import RunVerdict
from pipeline.reviews.corrections import Corrections
from pipeline.runtime.html_pages import page_environment
from pipeline.runtime.progress import duration
from pipeline.runtime.wording import data_size

_LEVELS: dict[Level, str] = {
    "unknown": "not judged",
    "none": "stable",
    "watch": "small change",
    "alarm": "large change",
}


@dataclass(frozen=True, kw_only=True)
class PageContents:
    """The data that a page shows."""

    report: Report
    verdict: RunVerdict
    cost: Cost | None
    labels: tuple[str, ...]
    aggregates: RunAggregates
    earlier: tuple[EarlierRun, ...]
    before: RunAggregates | None
    """Sums over the earlier runs."""
    drifts: tuple[Drift, ...]
    corrections: Corrections | None
    """None where the table has no reviews."""
    reviews_fault: str
    """Why they could not be counted; empty if they were."""
    outliers: tuple[Outlier, ...]
    sheet: tuple[str, ...]
    """image_id of the images of the contact sheet."""
    pictures: dict[str, Picture]
    finished: str
    """Time of the end, for people."""


def render_page(page: PageContents) -> str:
    """Returns the page as HTML."""
    labels = list(_label_rows(page))
    return (
        environment()
        .get_template("report.html")
        .render(
            page=page,
            report=page.report,
            levels=_LEVELS,
            numbers=_numbers(page),
            notes=_notes(page),
            images_by_run=[
                *(run.aggregates.images for run in reversed(page.earlier)),
                page.aggregates.images,
            ],
            labels=labels,
            top_area=max((max(row["area"], row["area_before"] or 0) for row in labels), default=1),
            histograms=list(_histograms(page)),
            reviews=_reviews_line(page),
        )
    )


def environment() -> Environment:
    """Returns the templates and their filters; every value that is not markup is escaped."""
    return page_environment("pipeline.nightly.reporting")


def _numbers(page: PageContents) -> list[tuple[str, str]]:
    report, rate = page.report, page.report.images_per_second
    mean_score, coverage = page.aggregates.mean_score, page.aggregates.coverage
    return [
        ("images", f"{report.images:,}"),
        ("in error", f"{report.images_in_error:,}"),
        ("segments", f"{report.segments:,}"),
        ("images/s", "too short to tell" if rate is None else f"{rate:,.3g}"),
        ("time", duration(report.seconds)),
        ("GPU-seconds", f"{report.gpu_seconds:,.0f}"),
        ("node-seconds", f"{report.node_seconds:,.0f}"),
        ("cost", "no price set" if page.cost is None else page.cost.amount),
        ("mean score", "–" if mean_score is None else f"{mean_score:.3f}"),
        ("coverage", "–" if coverage is None else f"{coverage:.1%}"),
        ("units done", f"{report.units_committed:,} of {report.units_planned:,}"),
        ("read", data_size(report.bytes_read)),
    ]


def _notes(page: PageContents) -> list[str]:
    report = page.report
    counts = [
        ("units not begun before the deadline, left for the next run", report.units_left),
        ("files that may still be written, left for the next run", report.files_waiting),
        ("files that storage could not read, left for the next run", report.files_out_of_reach),
        ("files labelled earlier and missing now (their rows stay)", report.files_gone),
        ("failed images tried again", report.images_tried_again),
        *(
            (f"files skipped ({reason}), for example {found['examples'][0]}", found["count"])
            for reason, found in report.passed_over.items()
        ),
        ("storage requests repeated", sum(report.storage_retries.values())),
    ]
    notes = [f"{name}: {count:,}" for name, count in counts if count]
    if page.reviews_fault:
        notes.append(f"the reviews could not be counted: {page.reviews_fault}")
    return notes if page.cost is None else [*notes, f"cost: {page.cost.in_words()}"]


def _reviews_line(page: PageContents) -> str:
    """Says how many images of the table were reviewed; empty without reviews."""
    found = page.corrections
    if found is None:
        return ""
    counts = ", ".join(f"{number:,} {status}" for status, number in sorted(found.images.items()))
    segments = sum(each.segments for each in found.labels.values())
    corrected = sum(each.corrected for each in found.labels.values())
    share = f"{corrected / segments:.1%}" if segments else "none"
    return (
        f"{found.num_reviewed:,} images of the table are reviewed ({counts}); of the model's "
        f"{segments:,} segments in settled ones, {share} were corrected"
    )


def _label_rows(page: PageContents) -> Iterator[dict[str, Any]]:
    """Yields the labels that occur now or before, by descending share of area."""
    now, before = page.aggregates, page.before
    area, segments = shares(now.areas), shares(now.counts)
    area_before = None if before is None else shares(before.areas)
    segments_before = None if before is None else shares(before.counts)
    total = area if area_before is None else area + area_before
    for i in (-total).argsort(kind="stable").tolist():
        if total[i] > 0:
            yield {
                "name": page.labels[i],
                "area": area[i],
                "area_before": None if area_before is None else area_before[i],
                "segments": segments[i],
                "segments_before": None if segments_before is None else segments_before[i],
                "score": now.scores[i] / now.counts[i] if now.counts[i] else None,
            }


def _histograms(page: PageContents) -> Iterator[dict[str, Any]]:
    now, before = page.aggregates, page.before
    if not now.images:
        return
    for name, histogram, mean, digits in (
        ("mean score", "mean_scores", "mean_score", ".3f"),
        ("coverage", "coverages", "coverage", ".1%"),
    ):
        value, old = getattr(now, mean), before and getattr(before, mean)
        mean_now = "none" if value is None else f"{value:{digits}} on average"
        text = f"{name} of an image: {mean_now}"
        yield {
            "now": shares(getattr(now, histogram)).tolist(),
            "before": shares(getattr(before, histogram)).tolist() if before else [],
            "text": text if old is None else f"{text}, {old:{digits}} in earlier runs",
        }
