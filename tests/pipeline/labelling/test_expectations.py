"""Rules on a run's images: read before the work, judged after it, a line each."""

import pytest
from drawn_tables import SPEC, draw_table

from pipeline.labelling.expectations import Outcome, Rule, check_rules, read_rules
from pipeline.labelling.report import Report, run_summary, with_expectations
from pipeline.nightly.reporting.run_verdict import judge
from pipeline.runtime.exit_codes import ExitCode
from pipeline.storage import Storage
from pipeline.table.store import images, segments

RULES = """
coverage: {min: 0.1, max: 0.99}
mean_score: {min: 0.999}
errors: {max: 0.5}
labels:
  car: {min: 0.1}
  sky: {max: 0.01}
"""


def read(tmp_path, text: str) -> tuple[Rule, ...]:
    (tmp_path / "rules.yaml").write_text(text)
    place = str(tmp_path / "rules.yaml")
    return read_rules(place, labels=SPEC.labels, storage=Storage())


def run_report(**changes) -> Report:
    fields = {
        "run_id": "night-1", "table": "t", "corpus": "c", "exit_code": ExitCode.DONE,
        "seconds": 1.0, "images": 18, "images_in_error": 0, "segments": 9,
        "images_per_second": None, "bytes_read": 1, "units_planned": 3, "units_committed": 3,
        "units_done_before": 0, "errors": {}, "error_examples": {}, "faults": {},
        "files_passed_over": 0, "files_passed_over_examples": [], "files_named_twice": 0,
    }  # fmt: skip
    return Report(**{**fields, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return draw_table(str(tmp_path_factory.mktemp("expected") / "t"))


def test_values_are_those_of_the_rows(table, tmp_path):
    found = {
        o.rule.name: o for o in check_rules(read(tmp_path, RULES), table=table, run_id="night-1")
    }
    rows = images(table.uri).to_table().to_pylist()
    ok = [row for row in rows if row["status"] == "ok"]
    scores = [row["mean_score"] for row in ok if row["mean_score"] is not None]
    areas = segments(table.uri).to_table().to_pylist()
    car = sum(s["area"] for s in areas if s["label"] == "car") / sum(s["area"] for s in areas)
    assert found["coverage"].value == pytest.approx(sum(r["coverage"] for r in ok) / len(ok))
    assert found["mean_score"].value == pytest.approx(sum(scores) / len(scores))
    assert found["errors"].value == pytest.approx(1 - len(ok) / len(rows))
    assert found["labels.car"].value == pytest.approx(car)
    assert {name for name, o in found.items() if not o.is_met} == {"mean_score", "labels.sky"}


def test_a_rule_that_fails_is_a_line_and_exit_code_3(table, tmp_path):
    outcomes = check_rules(read(tmp_path, RULES), table=table, run_id="night-1")
    found = with_expectations(run_report(), outcomes)
    assert found.exit_code == 3
    summary = run_summary(found, report_file="r").splitlines()
    assert sum(line.startswith("as expected: ") for line in summary) == 3
    (line,) = (line for line in summary if "mean score" in line)
    assert line.startswith("NOT AS EXPECTED: mean score is ")
    assert line.endswith("must be at least 99.9%")
    assert "not all is as --expect says" in "\n".join(summary)
    assert [Outcome.of(said) for said in found.expectations] == outcomes
    verdict = judge(found, [])
    assert verdict.must_act
    assert "share of sky" in verdict.text


def test_rules_that_hold_change_nothing(table, tmp_path):
    outcomes = check_rules(read(tmp_path, "errors: {max: 1}"), table=table, run_id="night-1")
    assert with_expectations(run_report(), outcomes).exit_code == 0
    for code in (ExitCode.BUDGET_EXCEEDED, ExitCode.TRY_AGAIN):
        failed = [Outcome(rule=outcomes[0].rule, value=2.0)]
        assert with_expectations(run_report(exit_code=code), failed).exit_code == code


def test_a_run_without_images_has_nothing_to_judge(table, tmp_path):
    outcomes = check_rules(read(tmp_path, RULES), table=table, run_id="another")
    assert all(outcome.is_met and outcome.value is None for outcome in outcomes)
    assert "no image to judge" in outcomes[0].line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("covrage: {min: 0.5}", "did you mean coverage"),
        ("coverage: {min: 50}", r"must be in \[0, 1\], got 50"),
        ("coverage: {min: 0.5, max: 0.4}", "min 0.5 above max 0.4"),
        ("coverage: {least: 0.5}", "must have min, max or both"),
        ("coverage: 0.5", "must have min, max or both"),
        ("labels: {cra: {min: 0.5}}", "did you mean car"),
        ("labels: 3", "must be label names"),
        ("coverage: {min: yes}", r"must be in \[0, 1\]"),
        ("", "must hold rules"),
        ("a: [", "is no YAML"),
    ],
)
def test_bad_rules_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is none at"):
        read_rules(str(tmp_path / "none.yaml"), labels=("a",), storage=Storage())
