"""Reports: an evaluation's numbers, for people in tables, for programs in `metrics.json`."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.judging import SCORES, Judge, Metric

_PER_LABEL = "_per_label"
_MOST_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class MetricsReport:
    """What `metrics.json` holds. All values are fractions in [0, 1], null where there is none."""

    task: str
    predictions: str
    """The model or the table."""
    dataset: str
    num_images: int
    num_segments: int
    """Predicted."""
    seconds: float
    metrics: dict[str, float | None]
    labels: list[dict[str, Any]]
    """A row for each label of the data."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)


def make_report(
    metric: Metric,
    *,
    judge: Judge,
    predictions: str,
    dataset: str,
    num_images: int,
    num_segments: int,
    seconds: float,
) -> MetricsReport:
    """The report of an evaluation that is over."""
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


def summary(report: MetricsReport, *, files: Sequence[str]) -> str:
    """The report for people: the numbers in percent, labels from the worst on."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    images = f"{report.num_images:,} image{'s' if report.num_images != 1 else ''}"
    overall = Table(title=f"{report.task}, {images}, in percent")
    columns = {name: value for name, value in report.metrics.items() if value is not None}
    for name in columns:
        overall.add_column(name, justify="right")
    overall.add_row(*map(_percent, columns.values()))
    console.print(overall)
    console.print(_label_table(report))
    for file in files:
        console.print(file, soft_wrap=True)
    text = console.file
    assert isinstance(text, io.StringIO)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _label_table(report: MetricsReport) -> Table:
    score = {"semantic": "iou"}.get(report.task, SCORES[report.task])
    shown = [row for row in report.labels if row[score] is not None]
    shown.sort(key=lambda row: row[score])
    absent = len(report.labels) - len(shown)
    notes = [f"{absent} labels occur in no image" if absent else ""]
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
    """Counts as they are, fractions in percent."""
    return f"{value:,}" if isinstance(value, int) else _percent(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _number(value: Any) -> Any:
    """JSON knows no nan."""
    return None if isinstance(value, float) and math.isnan(value) else value
