"""Reports tell a scheduler by a number, people in some lines and programs in JSON."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.labelling.report import Report, is_over_budget, report_run, run_summary
from pipeline.planning.planner import Plan, Unit
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.skips import SkipCounts


def passed(count: int, *, reason: str = "of no known kind") -> SkipCounts:
    found = SkipCounts()
    for number in range(count):
        found.add(f"/corpus/{number}.txt", reason=reason)
    return found


def drawn_plan(units: int, *, done: int = 0, passed_over: int = 0, doubled: int = 0) -> Plan:
    return Plan(
        units=tuple(Unit(unit_id=f"{n}", sources=()) for n in range(units)),
        done=done,
        earlier=0,
        skipped=passed(passed_over),
        doubled=tuple(f"/corpus/{n}.jpg" for n in range(doubled)),
    )


def stats(*, units: int, images: int = 100, errors: int = 0, faults: int = 0) -> RunStats:
    by_class = Counter({"EmptyFile": errors} if errors else {})
    example = {"image_id": "a.jpg", "message": "/corpus/a.jpg: the file is empty"}
    return RunStats(
        counts=Counts(images=images, segments=7, bytes_read=9, errors=by_class),
        units=units,
        faults={f"unit-{n}": f"StorageFault: away {n}" for n in range(faults)},
        examples={"EmptyFile": [example]},
    )


def report_of(
    planned: Plan, counted: RunStats, *, budget: float = 0.1, was_stopped: bool = False
) -> Report:
    return report_run(
        run_id="run", table="s3://b/table", corpus="/corpus", plan=planned, stats=counted,
        seconds=12.3456, error_budget=budget, was_stopped=was_stopped,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("planned", "counted", "was_stopped", "code"),
    [
        (drawn_plan(2), stats(units=2), False, 0),
        (drawn_plan(0, done=5), stats(units=0, images=0), False, 0),
        (drawn_plan(2), stats(units=2, errors=1), False, 3),
        (drawn_plan(2), stats(units=2, errors=10), False, 3),  # the budget itself is within it
        (drawn_plan(2), stats(units=2, errors=11), False, 4),
        (drawn_plan(2), stats(units=1, errors=11), False, 4),
        (drawn_plan(2), stats(units=1, errors=11), True, 4),  # trying again would not help
        (drawn_plan(2), stats(units=1), False, 75),
        (drawn_plan(2), stats(units=1, errors=1), False, 75),
        (drawn_plan(2), stats(units=1, faults=1), False, 75),
        (drawn_plan(2), stats(units=2), True, 75),
    ],
)
def test_exit_codes_say_whether_to_worry_and_whether_to_try_again(
    planned, counted, was_stopped, code
):
    assert report_of(planned, counted, was_stopped=was_stopped).exit_code == code


def test_files_that_the_storage_did_not_answer_for_are_worth_trying_again():
    away = replace(drawn_plan(2), out_of_reach=3, storage_faults=("look at http://h/a.jpg: 503",))
    assert report_of(away, stats(units=2)).exit_code == 75
    text = lines(away, stats(units=2))
    assert (
        "files that the storage could not look up, left for another run: 3, "
        "for example: look at http://h/a.jpg: 503"
    ) in text
    assert "not finished; run the same command again to continue" in text


def test_files_that_were_labelled_and_are_absent_are_named_and_no_reason_to_worry():
    away = replace(drawn_plan(2), gone=3, first_gone="/corpus/a.jpg")
    assert report_of(away, stats(units=2)).exit_code == 0
    text = lines(away, stats(units=2))
    assert (
        "files that were labelled before and do not exist now (the table keeps their rows): 3, "
        "for example /corpus/a.jpg"
    ) in text


def test_exit_codes_are_those_that_schedulers_know():
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0, "NOT_SOUND": 1, "WRONG_USAGE": 2, "DONE_WITH_ERRORS": 3, "BUDGET_EXCEEDED": 4,
        "TRY_AGAIN": 75, "STOPPED": 143,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "budget", "is_over"),
    [(0, 0.0, False), (1, 0.0, True), (50, 0.5, False), (51, 0.5, True), (100, 1.0, False)],
)
def test_a_budget_is_a_share_of_the_images(errors, budget, is_over):
    counted = stats(units=1, errors=errors)
    assert is_over_budget(counted.counts, error_budget=budget) == is_over


def test_programs_read_counts_and_reasons(tmp_path):
    found = json.loads(
        report_of(
            drawn_plan(3, done=4, passed_over=9, doubled=1), stats(units=1, errors=2, faults=2)
        ).to_json()
    )
    assert found["exit_code"] == 75
    assert found["seconds"] == 12.35
    expected = {
        "run_id": "run", "table": "s3://b/table", "corpus": "/corpus", "images": 100,
        "images_in_error": 2, "segments": 7, "images_per_second": None, "bytes_read": 9,
        "units_planned": 3, "units_committed": 1, "units_done_before": 4,
        "errors": {"EmptyFile": 2}, "files_passed_over": 9, "files_named_twice": 1,
        "faults": {"unit-0": "StorageFault: away 0", "unit-1": "StorageFault: away 1"},
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["error_examples"]["EmptyFile"][0]["image_id"] == "a.jpg"
    assert len(found["files_passed_over_examples"]) == 5
    assert found["passed_over"] == {
        "of no known kind": {"count": 9, "examples": [f"/corpus/{n}.txt" for n in range(5)]}
    }


def test_what_archives_passed_over_is_counted_with_what_the_listing_did():
    counted = stats(units=1)
    counted.counts.add(Counts(skipped=passed(2, reason="hidden")))
    counted.counts.add(again := Counts(skipped=passed(1)))
    counted.counts.take_back(again)
    counted.counts.add(Counts(skipped=passed(1)))
    found = json.loads(report_of(drawn_plan(1, passed_over=3), counted).to_json())
    assert {reason: said["count"] for reason, said in found["passed_over"].items()} == {
        "of no known kind": 4, "hidden": 2,
    }  # fmt: skip
    assert found["files_passed_over"] == 3
    text = lines(drawn_plan(1, passed_over=3), counted)
    assert "skipped 4 files (of no known kind), for example /corpus/0.txt" in text
    assert "skipped 2 files (hidden), for example /corpus/0.txt" in text


def test_a_report_stays_small_whatever_went_wrong():
    assert len(report_of(drawn_plan(5000), stats(units=0, faults=5000)).to_json()) < 20_000


def lines(*arguments, **options) -> list[str]:
    return run_summary(
        report_of(*arguments, **options), report_file="s3://b/report.json"
    ).splitlines()


def test_people_read_that_all_is_well():
    assert lines(drawn_plan(2), stats(units=2)) == [
        "labelled 100 images with 7 segments in 12 s",
        "done",
        "table: s3://b/table",
        "to look at it: maskformer gallery s3://b/table",
        "report: s3://b/report.json",
    ]


def test_people_read_what_went_wrong_and_what_to_do():
    text = lines(
        drawn_plan(3, done=4, passed_over=2, doubled=1), stats(units=1, errors=2, faults=2)
    )
    assert text[0] == "units of images that earlier runs labelled: 4"
    assert "  2 × EmptyFile, for example /corpus/a.jpg: the file is empty" in text
    assert any("skipped 2 files" in line and "/corpus/0.txt" in line for line in text)
    assert "files that the corpus names twice, labelled once: 1" in text
    assert any("units not done: 2" in line and "away 0" in line for line in text)
    assert "not finished; run the same command again to continue" in text


def test_people_read_that_there_were_too_many_errors():
    (advice,) = [
        line for line in lines(drawn_plan(1), stats(units=1, errors=50)) if "budget" in line
    ]
    assert "50 of 100 images are in error" in advice
    assert "the table keeps the finished units" in advice


def test_a_stopped_run_without_faults_says_to_go_on():
    text = lines(drawn_plan(2), stats(units=1), was_stopped=True)
    assert "not finished; run the same command again to continue" in text
