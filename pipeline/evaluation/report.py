"""Reports an evaluation's numbers: in tables for people, in `metrics.json` for programs."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.instance_ap import PUBLISHED
from pipeline.evaluation.judging import SCORES, Judge, Metric
from pipeline.runtime.wording import count

_PER_LABEL = "_per_label"
_MOST_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class MetricsReport:
    """The content of `metrics.json`. Metrics are fractions in [0, 1], or null."""

    task: str
    predictions: str
    """The model or the table that they come from."""
    dataset: str
    num_images: int
    num_segments: int
    """Number of predicted segments."""
    seconds: float
    metrics: dict[str, float | None]
    labels: list[dict[str, Any]]
    """Metrics of each label of the data."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)


def report_metrics(
    metric: Metric,
    *,
    judge: Judge,
    predictions: str,
    dataset: str,
    num_images: int,
    num_segments: int,
    seconds: float,
) -> MetricsReport:
    """Returns the report of an evaluation that has ended."""
    computed = metric.compute()
    per_label = {
        name.removesuffix(_PER_LABEL): values
        for name, values in computed.items()
        if name.endswith(_PER_LABEL)
    }
    return MetricsReport(
        task=judge.task,
        predictions=predictions,
        dataset=dataset,
        num_images=num_images,
        num_segments=num_segments,
        seconds=round(seconds, 2),
        metrics={
            name: _number(value)
            for name, value in computed.items()
            if not name.endswith(_PER_LABEL)
        },
        labels=[
            {
                "label_id": label_id,
                "label": name,
                "is_thing": label_id in judge.labels.things,
                **{key: _number(values[label_id]) for key, values in per_label.items()},
            }
            for label_id, name in enumerate(judge.labels.names)
        ],
    )


def metrics_summary(report: MetricsReport, *, files: Sequence[str]) -> str:
    """Returns the report in tables for people: in percent, labels from the worst on."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    images = count(report.num_images, "image")
    console.print(_overall_table(report, title=f"{report.task}, {images}, in percent"))
    console.print(_label_table(report))
    for file in files:
        console.print(file, soft_wrap=True)
    text = console.file
    assert isinstance(text, io.StringIO)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _overall_table(report: MetricsReport, *, title: str) -> Table:
    """Makes a column for each metric; or a line for each, if there are published ones too."""
    table = Table(title=title)
    numbers = {name: value for name, value in report.metrics.items() if value is not None}
    if not any(name.startswith(PUBLISHED) for name in numbers):
        for name in numbers:
            table.add_column(name, justify="right")
        table.add_row(*map(_percent, numbers.values()))
        return table
    table.caption = "published: the 100 best instances of each image, whole masks, no threshold"
    for name in ("", "rows", "published"):
        table.add_column(name, justify="right")
    names = dict.fromkeys(name.removeprefix(PUBLISHED) for name in numbers)
    for name in names:
        ways = (numbers.get(name), numbers.get(PUBLISHED + name))
        table.add_row(name, *map(_percent, ways))
    return table


def _label_table(report: MetricsReport) -> Table:
    score = {"semantic": "iou"}.get(report.task, SCORES[report.task])
    shown = [row for row in report.labels if row[score] is not None]
    shown.sort(key=lambda row: row[score])
    absent = len(report.labels) - len(shown)
    notes = [f"{count(absent, 'label')} in no image" if absent else ""]
    if len(shown) > _MOST_ROWS:
        notes.append(f"the {_MOST_ROWS} worst labels; all are in metrics.json")
        shown = shown[:_MOST_ROWS]
    table = Table(caption="; ".join(filter(None, notes)))
    keys = [key for key in report.labels[0] if key not in ("label_id", "label", "is_thing")]
    table.add_column("label")
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    for row in shown:
        table.add_row(row["label"], *(_cell(row[key]) for key in keys))
    return table


def _cell(value: Any) -> str:
    """Formats counts as they are, fractions in percent."""
    return f"{value:,}" if isinstance(value, int) else _percent(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _number(value: Any) -> Any:
    """Returns None for nan, which JSON does not have."""
    return None if isinstance(value, float) and math.isnan(value) else value
