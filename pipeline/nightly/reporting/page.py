"""The page: `report.html`, to open or to mail, that says at its top whether one must act.

One file without scripts or links to others; whatever comes from the corpus or the labels is escaped
by `markup.py`.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.labelling.report import Report
from pipeline.nightly.reporting.charts import BEFORE, NOW, columns, histograms, pair
from pipeline.nightly.reporting.cost import Cost
from pipeline.nightly.reporting.drift import Drift, Level
from pipeline.nightly.reporting.history import EarlierRun
from pipeline.nightly.reporting.markup import Markup, element, joined, short
from pipeline.nightly.reporting.outliers import Outlier
from pipeline.nightly.reporting.pictures import Picture
from pipeline.nightly.reporting.run_aggregates import RunAggregates, shares
from pipeline.nightly.reporting.run_verdict import RunVerdict
from pipeline.runtime.progress import duration

_MOST_LABELS = 30
_MOST_CLASSES = 25
_MOST_FAULTS = 10
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a page is made of."""

    report: Report
    verdict: RunVerdict
    cost: Cost | None
    labels: tuple[str, ...]
    figures: RunAggregates
    earlier: tuple[EarlierRun, ...]
    before: RunAggregates | None
    """The earlier runs added up."""
    drifts: tuple[Drift, ...]
    strangest: tuple[Outlier, ...]
    sheet: tuple[str, ...]
    """image_id of the images of the contact sheet."""
    pictures: dict[str, Picture]
    finished: str
    """When, for people."""


def page(found: Findings) -> str:
    """The page as text of UTF-8."""
    body = [
        _verdict(found.verdict),
        element("h1", "Labelling run ", found.report.run_id),
        element("p", found.report.table, element("br"), "finished ", found.finished, class_="dim"),
        _numbers(found),
        _errors(found.report),
        _faults(found.report),
        _drifts(found),
        _labels(found),
        _scores(found),
        _strangest(found),
        _sheet(found),
        _words(found),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", _title(found)),
        element("style", Markup(_STYLE)),
    ]
    parts = [element("head", *head), element("body", element("main", *body))]
    return f"<!DOCTYPE html>\n{element('html', *parts, lang='en')}\n"


# No script runs and nothing is fetched, should any tag ever come through.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark }
body { margin: 0; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif;
  background: #fff; color: #1c1e21 }
main { max-width: 760px; margin: 0 auto; padding: 16px }
h1 { font-size: 20px; margin: 20px 0 0 } h2 { font-size: 16px; margin: 28px 0 6px }
p { margin: 6px 0 } .dim { color: #6b7075; font-size: 13px }
.verdict { padding: 12px 14px; border-radius: 6px; border: 2px solid #2e8b57 }
.act { border-color: #c0392b }
table { border-collapse: collapse; width: 100%; font-size: 14px }
td, th { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #8884;
  vertical-align: top; overflow-wrap: anywhere }
th { font-weight: 600; font-size: 13px } .n { text-align: right; white-space: nowrap }
.big { font-size: 20px; font-weight: 600 }
figure { margin: 0 0 12px } figcaption { font-size: 13px; overflow-wrap: anywhere }
img { max-width: 100%; height: auto; border-radius: 4px }
.none { padding: 24px 12px; border: 1px dashed #8888; border-radius: 4px; font-size: 13px }
.alarm { color: #c0392b; font-weight: 600 } .watch { color: #b9770e; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e4e6e8 } .dim { color: #9aa0a6 }
  .alarm { color: #ff7b6b } .watch { color: #f0b04a }
}
"""


def _title(found: Findings) -> str:
    what = "Act" if found.verdict.must_act else "Nothing to do"
    return f"{what}: labelling run {found.report.run_id}"


def _verdict(verdict: RunVerdict) -> Markup:
    begin = element("strong", "Act. ") if verdict.must_act else None
    return element(
        "p", begin, short(verdict.text, 1500), class_="verdict act" if begin else "verdict"
    )


def _numbers(found: Findings) -> Markup:
    report, figures = found.report, found.figures
    rate = report.images_per_second
    numbers = [
        ("images", f"{report.images:,}"),
        ("in error", f"{report.images_in_error:,}"),
        ("segments", f"{report.segments:,}"),
        ("images/s", "too short to tell" if rate is None else f"{rate:,.3g}"),
        ("time", duration(report.seconds)),
        ("GPU-seconds", f"{report.gpu_seconds:,.0f}"),
        ("node-seconds", f"{report.node_seconds:,.0f}"),
        ("cost", "no price set" if found.cost is None else found.cost.amount),
        ("mean score", _number(figures.mean_score)),
        ("coverage", _share(figures.coverage)),
        ("units", f"{report.units_committed:,} of {report.units_planned:,}"),
        ("read", f"{report.bytes_read / 1e6:,.1f} MB"),
    ]
    others = [
        ("units left by the deadline", report.units_left),
        ("files that may still be written, left for another run", report.files_waiting),
        ("files out of reach, left for another run", report.files_out_of_reach),
        ("labelled before and absent now, their rows stay", report.files_gone),
        ("images in error tried again", report.images_tried_again),
        *(
            (f"passed over, {reason}, as {said['examples'][0]}", said["count"])
            for reason, said in report.passed_over.items()
        ),
        ("requests to the storage made again", sum(report.storage_retries.values())),
    ]
    notes = [f"{name}: {count:,}" for name, count in others if count]
    if found.cost is not None:
        notes.append(f"cost: {found.cost.in_words()}")
    cells = [
        element("td", element("span", value, class_="big"), element("br"), name, class_="dim")
        for name, value in numbers
    ]
    lines = [element("tr", *cells[start : start + 4]) for start in range(0, len(cells), 4)]
    return joined(
        element("table", *lines),
        element("p", "; ".join(notes), class_="dim") if notes else None,
        _nights(found),
    )


def _nights(found: Findings) -> Markup | None:
    if not found.earlier:
        return None
    counts = [run.figures.images for run in reversed(found.earlier)] + [found.figures.images]
    said = f"images labelled by run, the latest last: {', '.join(f'{count:,}' for count in counts)}"
    return element("p", columns(counts, said=said), element("br"), said, class_="dim")


def _errors(report: Report) -> Markup | None:
    if not report.errors:
        return None
    classes = list(report.errors.items())
    rows = [
        element(
            "tr",
            element("td", short(name)),
            element("td", f"{count:,}", class_="n"),
            element("td", [_example(each) for each in _examples(report, name)]),
        )
        for name, count in classes[:_MOST_CLASSES]
    ]
    return joined(
        element("h2", "Images in error"),
        element("table", _header("class", "images", "such as"), *rows),
        _left_out(len(classes) - _MOST_CLASSES, "classes"),
    )


def _examples(report: Report, name: str) -> Sequence[dict[str, str]]:
    return report.error_examples.get(name, [])[:_EXAMPLES]


def _example(example: dict[str, str]) -> Markup:
    message = short(example.get("message") or "", 300)
    return element("p", message or short(example.get("image_id", "")), class_="dim")


def _faults(report: Report) -> Markup | None:
    if not report.faults:
        return None
    rows = [
        element("tr", element("td", unit), element("td", short(reason, 300)))
        for unit, reason in list(report.faults.items())[:_MOST_FAULTS]
    ]
    return joined(
        element("h2", "Units that are not done"),
        element("table", _header("unit", "why"), *rows),
        _left_out(len(report.faults) - _MOST_FAULTS, "units"),
    )


def _drifts(found: Findings) -> Markup:
    rows = [
        element(
            "tr",
            element("td", drift.measure.replace("_", " ")),
            element("td", "" if drift.index is None else f"{drift.index:.3f}", class_="n"),
            element("td", _LEVELS[drift.level], class_=drift.level),
            element("td", _changes(drift)),
        )
        for drift in found.drifts
    ]
    runs = len(found.earlier)
    against = f" against the last {runs} run{'s' if runs > 1 else ''}" if runs else ""
    return joined(
        element("h2", "What drifted", against),
        element("table", _header("measure", "index", "", "most of it"), *rows),
    )


_LEVELS: dict[Level, str] = {
    "unknown": "not judged",
    "none": "steady",
    "watch": "moves",
    "alarm": "moved",
}


def _changes(drift: Drift) -> list[Markup]:
    if drift.reason:
        return [element("p", drift.reason, class_="dim")]
    return [
        element("p", f"{short(c.what, 60)}: {c.before:.1%} to {c.now:.1%}", class_="dim")
        for c in drift.changes[:3]
    ]


def _labels(found: Findings) -> Markup | None:
    figures, before = found.figures, found.before
    area, count = shares(figures.areas), shares(figures.counts)
    old_area = old_count = None
    most = area
    if before is not None:
        old_area, old_count = shares(before.areas), shares(before.counts)
        most = area + old_area
    order = [i for i in (-most).argsort(kind="stable").tolist() if most[i] > 0]
    if not order:
        return None
    top = float(max(area.max(), 0 if old_area is None else old_area.max()))
    rows = []
    for i in order[:_MOST_LABELS]:
        score = float(figures.scores[i] / figures.counts[i]) if figures.counts[i] else None
        old = None if old_area is None else float(old_area[i])
        said = f"{area[i]:.1%}" + ("" if old is None else f", before {old:.1%}")
        rows.append(
            element(
                "tr",
                element("td", short(found.labels[i], 60)),
                element("td", _share(area[i]), class_="n"),
                element("td", _share(old), class_="n"),
                element("td", pair(float(area[i]), old, most=top, said=said)),
                element("td", _share(count[i]), class_="n"),
                element("td", _share(None if old_count is None else old_count[i]), class_="n"),
                element("td", _number(score), class_="n"),
            )
        )
    header = _header("label", "area", "before", "", "segments", "before", "score")
    return joined(
        element("h2", "Labels"),
        element("table", header, *rows),
        _left_out(len(order) - _MOST_LABELS, "labels"),
    )


def _scores(found: Findings) -> Markup | None:
    figures, before = found.figures, found.before
    if not figures.images:
        return None
    blocks = []
    for name, now, then, mean, old in (
        (
            "mean score of an image",
            figures.mean_scores,
            None if before is None else before.mean_scores,
            _number(figures.mean_score),
            "" if before is None else _number(before.mean_score),
        ),
        (
            "coverage of an image",
            figures.coverages,
            None if before is None else before.coverages,
            _share(figures.coverage),
            "" if before is None else _share(before.coverage),
        ),
    ):
        said = f"{name}: {mean or 'none'} on average" + (f", before {old}" if old else "")
        chart = histograms(
            now.tolist(), [0] * len(now) if then is None else then.tolist(), said=said
        )
        blocks.append(element("p", chart, element("br"), f"{said}; from 0 to 1", class_="dim"))
    return joined(element("h2", "Scores and coverage"), *blocks)


def _strangest(found: Findings) -> Markup | None:
    if not found.strangest:
        return None
    rows = [
        element(
            "tr",
            element("td", _picture(found.pictures.get(each.image_id), width=240), width="250"),
            element(
                "td",
                element("p", short(each.image_id, 160)),
                [element("p", reason) for reason in each.reasons],
                element("p", f"{each.strangeness:.1f} times as far as one in twenty", class_="dim"),
                element("p", _where(found, each.image_id), class_="dim"),
            ),
        )
        for each in found.strangest
    ]
    return joined(
        element("h2", f"The {len(rows)} strangest images" if len(rows) > 1 else "Strangest image"),
        element("table", *rows),
    )


def _sheet(found: Findings) -> Markup | None:
    if not found.sheet:
        return None
    cells = [
        element(
            "td",
            element(
                "figure",
                _picture(found.pictures.get(image_id), width=230),
                element("figcaption", short(image_id, 80), class_="dim"),
            ),
            width="33%",
        )
        for image_id in found.sheet
    ]
    lines = [element("tr", *cells[start : start + 3]) for start in range(0, len(cells), 3)]
    return joined(
        element("h2", "Contact sheet"),
        element("p", "Images of units that were drawn at random.", class_="dim"),
        element("table", *lines),
    )


def _picture(picture: Picture | None, *, width: int) -> Markup:
    if picture is None or picture.jpeg is None:
        reason = "not looked for" if picture is None else picture.missing
        return element("p", "no picture: ", reason, class_="none")
    scale = min(1.0, width / picture.width)
    return element(
        "img",
        src=f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}",
        width=round(picture.width * scale),
        height=round(picture.height * scale),
        alt=f"{short(picture.image_id, 80)} with its segments",
    )


def _where(found: Findings, image_id: str) -> str:
    picture = found.pictures.get(image_id)
    return "" if picture is None else short(picture.where, 300)


def _words(found: Findings) -> Markup:
    key = joined(
        element("span", "■", style=f"color: {NOW}"), " this run, ",
        element("span", "■", style=f"color: {BEFORE}"), " the runs before. ",
    )  # fmt: skip
    return element(
        "p",
        key,
        "Index: population stability index, sum of (p - q) ln(p / q) over labels or bins; from 0.1 "
        "on something moves, from 0.25 on it has moved (Lewis 1994; Siddiqi 2006), and nothing is "
        "judged where chance alone reaches the first. Compared with: ",
        ", ".join(run.run_id for run in found.earlier) or "no run",
        ".",
        class_="dim",
    )


def _header(*names: str) -> Markup:
    numeric = ("images", "index", "area", "segments", "before", "score")
    return element(
        "tr", *(element("th", name, class_="n" if name in numeric else None) for name in names)
    )


def _left_out(count: int, what: str) -> Markup | None:
    if count <= 0:
        return None
    return element("p", f"and {count:,} more {what}; see report.json", class_="dim")


def _share(value: Any) -> str:
    return "" if value is None else f"{float(value):.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
