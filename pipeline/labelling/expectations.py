"""Checks at the end of a run what people expect of its images: `--expect rules.yaml`.

    coverage: {min: 0.6}              mean share of an image's pixels in a segment
    mean_score: {min: 0.7}            mean of the images' mean scores
    errors: {max: 0.01}               share of images in error
    labels:
      sky: {min: 0.02, max: 0.6}      share of the label in the area of all segments

All values are shares in [0, 1], over the images of the units that the run planned. The rules are
read before work begins; each is a line of the summary and an entry of report.json.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.corpora.parquet import read_parquet
from pipeline.runtime.options import did_you_mean
from pipeline.storage import File, Storage
from pipeline.table.plans import read_plan
from pipeline.table.store import TableStore

_WHOLE = {
    "coverage": "mean coverage",
    "mean_score": "mean score",
    "errors": "share of images in error",
}
_LABELS = "labels"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Bounds of one value; None where it has no such bound."""

    name: str
    """`coverage`, `mean_score`, `errors`, or `labels.` and the label."""
    low: float | None
    high: float | None

    @property
    def label(self) -> str | None:
        """Returns the label whose share it is about."""
        head, dot, label = self.name.partition(".")
        return label if dot and head == _LABELS else None

    @property
    def in_words(self) -> str:
        return f"share of {self.label}" if self.label is not None else _WHOLE[self.name]

    @property
    def bounds(self) -> str:
        parts = [] if self.low is None else [f"at least {self.low:.1%}"]
        parts += [] if self.high is None else [f"at most {self.high:.1%}"]
        return " and ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A rule, the value that was found, and whether it holds."""

    rule: Rule
    value: float | None
    """None where the run has no image that has such a value."""

    @property
    def is_met(self) -> bool:
        """Returns True if it holds, or there is nothing to judge."""
        low, high, value = self.rule.low, self.rule.high, self.value
        if value is None:
            return True
        return (low is None or value >= low) and (high is None or value <= high)

    @property
    def line(self) -> str:
        """Returns a line for people."""
        state = "as expected" if self.is_met else "NOT AS EXPECTED"
        found = "no image to judge" if self.value is None else f"{self.value:.1%}"
        return f"{state}: {self.rule.in_words} is {found}, must be {self.rule.bounds}"

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Outcome":
        """Returns what `to_dict` wrote."""
        rule = Rule(name=said["rule"], low=said["min"], high=said["max"])
        return cls(rule=rule, value=said["value"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule.name, "min": self.rule.low, "max": self.rule.high,
            "value": self.value, "is_met": self.is_met,
        }  # fmt: skip


def read_rules(place: str, *, labels: Sequence[str], storage: Storage) -> tuple[Rule, ...]:
    """Reads rules from a YAML file on a disk or in a bucket.

    Raises:
        ValueError: there is no such file, or a rule is none; the message says which and why.
    """
    import yaml

    try:
        content = yaml.safe_load(storage.read(storage.absolute(place)))
    except FileNotFoundError as error:
        raise ValueError(f"expect must name a YAML file, there is none at {place}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"expect: {place} is no YAML: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"expect: {place} must hold rules, as `coverage: {{min: 0.5}}`")
    rules = []
    for name, value in content.items():
        if name == _LABELS:
            rules += _label_rules(value, place=place, labels=labels)
        elif name in _WHOLE:
            rules.append(_rule(name, value, place=place))
        else:
            near = did_you_mean(str(name), [*_WHOLE, _LABELS])
            known = ", ".join((*_WHOLE, _LABELS))
            raise ValueError(
                f"expect: {place} has the rule {name!r}{near or ''}; known are {known}"
            )
    return tuple(rules)


def _label_rules(value: Any, *, place: str, labels: Sequence[str]) -> list[Rule]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"expect: labels in {place} must be label names with min or max")
    for label in value:
        if label not in labels:
            near = did_you_mean(str(label), list(labels))
            raise ValueError(f"expect: {place} names the label {label!r}{near or ''}; the model "
                             "has no such label")  # fmt: skip
    return [_rule(f"{_LABELS}.{label}", bounds, place=place) for label, bounds in value.items()]


def _rule(name: str, value: Any, *, place: str) -> Rule:
    if not isinstance(value, dict) or not value or not value.keys() <= {"min", "max"}:
        raise ValueError(f"expect: {name} in {place} must have min, max or both, got {value!r}")
    for bound in value.values():
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not (is_number and 0 <= bound <= 1):
            raise ValueError(f"expect: {name} in {place} must be in [0, 1], got {bound!r}")
    low, high = value.get("min"), value.get("max")
    if low is not None and high is not None and low > high:
        raise ValueError(f"expect: {name} in {place} has min {low} above max {high}")
    return Rule(name=name, low=low, high=high)


def check_rules(rules: Sequence[Rule], *, table: TableStore, run_id: str) -> list[Outcome]:
    """Judges the images of a run's units that are done; reads small columns, unit by unit."""
    if not rules:
        return []
    sums = _Sums(with_labels=any(rule.label is not None for rule in rules))
    if table.storage.file(table.file("_runs", run_id, "plan.parquet")) is not None:
        sums.add(table, run_id)
    values = sums.values()
    return [Outcome(rule=rule, value=values(rule)) for rule in rules]


class _Sums:
    """Adds up the values of images."""

    def __init__(self, *, with_labels: bool) -> None:
        self._with_labels = with_labels
        self._images = self._errors = self._ok = self._scored = 0
        self._coverage = self._score = 0.0
        self._areas: dict[str, int] = defaultdict(int)

    def add(self, table: TableStore, run_id: str) -> None:
        planned: set[str] = set()
        for rows in read_plan(table, run_id, columns=["unit_id"]):
            planned.update(pc.unique(rows["unit_id"]).to_pylist())
        images = table.unit_files("images")
        done = planned & (images.keys() - table.tombstones(images.keys()))
        segments = table.unit_files("segments") if self._with_labels else {}
        for unit_id in sorted(done):
            self._add_images(table, images[unit_id])
            if unit_id in segments:
                self._add_segments(table, segments[unit_id])

    def _add_images(self, table: TableStore, file: File) -> None:
        rows = _read(table, file, columns=("status", "coverage", "mean_score"))
        self._images += len(rows)
        ok = rows.filter(pc.equal(rows["status"], "ok"))
        self._errors += len(rows) - len(ok)
        self._ok += len(ok)
        self._coverage += pc.sum(ok["coverage"].cast("float64")).as_py() or 0.0
        self._scored += pc.count(ok["mean_score"]).as_py()
        self._score += pc.sum(ok["mean_score"].cast("float64")).as_py() or 0.0

    def _add_segments(self, table: TableStore, file: File) -> None:
        rows = _read(table, file, columns=("label", "area"))
        for row in rows.group_by("label").aggregate([("area", "sum")]).to_pylist():
            self._areas[row["label"]] += row["area_sum"]

    def values(self) -> "_Values":
        def share(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        return _Values(
            whole={
                "coverage": share(self._coverage, self._ok),
                "mean_score": share(self._score, self._scored),
                "errors": share(self._errors, self._images),
            },
            areas=dict(self._areas),
        )


@dataclass(frozen=True, kw_only=True)
class _Values:
    whole: Mapping[str, float | None]
    areas: Mapping[str, int]

    def __call__(self, rule: Rule) -> float | None:
        if rule.label is None:
            return self.whole[rule.name]
        total = sum(self.areas.values())
        return self.areas.get(rule.label, 0) / total if total else None


def _read(table: TableStore, file: File, *, columns: Sequence[str]) -> Any:
    with table.storage.open(file.uri, etag=file.etag, size=file.size) as data:
        return read_parquet(data, columns=columns)
