"""What drifted is named, what did not is not, and a few images prove nothing."""

import dataclasses
import json

import numpy as np
import pytest
from drawn_runs import (
    LABELS,
    DrawnImage,
    label_earlier_runs,
    label_run,
    new_table,
    published_report,
    report,
    usual_images,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nightly.reporting import publish_report
from pipeline.nightly.reporting.drift import measure_drift, stability_index
from pipeline.nightly.reporting.run_aggregates import BINS, RunAggregates
from pipeline.nightly.settings import ReportSettings

RUN = "20260120T020000-thisone"
QUIET = ReportSettings(strangest_images=0, sheet_images=0)


def by_measure(found: dict) -> dict[str, dict]:
    return {drift["measure"]: drift for drift in found["drift"]}


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=2, max_size=20))
def test_the_index_is_never_below_0_and_is_0_for_the_same_shares(pairs):
    now, before = np.array(pairs, float).T
    assert (stability_index(now, before) >= 0).all()
    assert stability_index(now, 3 * now).sum() == pytest.approx(0)
    assert stability_index(now, before).sum() == pytest.approx(stability_index(before, now).sum())


def test_the_index_is_that_of_the_books():
    # Siddiqi's way of reckoning, by hand: (0.3-0.2) ln 1.5 + (0.3-0.4) ln 0.75 + 0
    parts = stability_index(np.array([30, 30, 40]), np.array([20, 40, 40]))
    assert parts == pytest.approx([0.0405465, 0.0287682, 0.0], abs=1e-6)


def test_a_run_like_the_others_is_stable(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 3)
    label_run(table, RUN, {"now": usual_images("now", 300, seed=50)})
    publish_report(table, RUN, report(RUN), QUIET)
    assert {drift["level"] for drift in published_report(table, RUN)["drift"]} == {"none"}
    assert published_report(table, RUN)["must_act"] is False


def test_what_moved_is_named_with_its_shares_before_and_now(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 3)
    images = usual_images("now", 300, seed=50, shares=(0.1, 0.3, 0.5, 0.1))
    label_run(table, RUN, {"now": images})
    lines = publish_report(table, RUN, report(RUN), QUIET)
    moved = by_measure(published_report(table, RUN))["labels_by_area"]
    assert moved["level"] == "alarm"
    assert {change["what"] for change in moved["changes"][:2]} == {"road", "car"}
    (road,) = [change for change in moved["changes"] if change["what"] == "road"]
    assert road["before"] == pytest.approx(0.4, abs=0.02)
    assert road["now"] == pytest.approx(0.1, abs=0.02)
    # Each image has one segment of each label still.
    assert by_measure(published_report(table, RUN))["labels_by_count"]["level"] == "none"
    assert any(line.startswith("Action needed. ") and "labels by area" in line for line in lines)


def test_scores_that_sank_are_found(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 2)
    images = [
        dataclasses.replace(image, score=image.score - 0.15)
        for image in usual_images("now", 300, seed=50)
    ]
    label_run(table, RUN, {"now": images})
    publish_report(table, RUN, report(RUN), QUIET)
    assert by_measure(published_report(table, RUN))["mean_score"]["level"] == "alarm"
    assert by_measure(published_report(table, RUN))["coverage"]["level"] == "none"


@pytest.mark.parametrize("count", [1, 5, 20])
def test_of_a_few_images_the_report_says_that_they_are_few(tmp_path, count):
    table = new_table(tmp_path)
    label_earlier_runs(table, 1)
    images = [DrawnImage(image_id=f"{n}", shares={2: 0.9, 1: 0.05}) for n in range(count)]
    label_run(table, RUN, {"now": images})
    publish_report(table, RUN, report(RUN), QUIET)
    for drift in published_report(table, RUN)["drift"]:
        assert drift["level"] == "unknown"
        assert f"too few images to tell ({count} now" in drift["reason"]
    assert published_report(table, RUN)["must_act"] is False


def test_the_first_run_has_nothing_to_compare_with(tmp_path):
    table = new_table(tmp_path)
    label_run(table, RUN, {"now": usual_images("now", 50, seed=1)})
    publish_report(table, RUN, report(RUN), QUIET)
    assert {drift["reason"] for drift in published_report(table, RUN)["drift"]} == {
        "no earlier run to compare with"
    }
    assert published_report(table, RUN)["compared_with"] == []


def test_seven_runs_that_labelled_something_are_compared_and_no_other(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 9, images=20)
    empty = "20260110T020000-empty"
    publish_report(table, empty, report(empty, images=0), QUIET)
    table.storage.write(table.file("_runs", "20260111T020000-broken", "report.json"), b"{")
    later = "20260125T020000-later"
    label_run(table, later, {"later": usual_images("later", 20, seed=3)})
    publish_report(table, later, report(later), QUIET)
    label_run(table, RUN, {"now": usual_images("now", 20, seed=1)})
    publish_report(table, RUN, report(RUN), QUIET)
    days = [run_id[6:8] for run_id in published_report(table, RUN)["compared_with"]]
    assert days == ["09", "08", "07", "06", "05", "04", "03"]


def test_a_report_of_other_labels_is_not_compared(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 1, images=20)
    file = table.file("_runs", "20260101T020000-earlier", "report.json")
    other = json.loads(table.storage.read(file))
    other["labels"][0]["label"] = "pavement"
    table.storage.write(file, json.dumps(other).encode())
    label_run(table, RUN, {"now": usual_images("now", 20, seed=1)})
    publish_report(table, RUN, report(RUN), QUIET)
    assert published_report(table, RUN)["compared_with"] == []


def test_the_report_counts_what_is_in_the_table(tmp_path):
    table = new_table(tmp_path)
    images = [*usual_images("now", 40, seed=1), DrawnImage(image_id="bad", error="NotAnImage")]
    label_run(table, RUN, {"a": images[:20], "b": images[20:]})
    plain = report(RUN, images=41, gpu_seconds=7200.0, node_seconds=3600.0)
    settings = ReportSettings(gpu_hour_price=3.0, node_hour_price=1.5, sheet_images=0)
    publish_report(table, RUN, plain, settings)
    found = published_report(table, RUN)
    assert found | json.loads(plain.to_json()) == found
    assert found["images_labelled"] == 40
    assert found["units_reported"] == 2
    assert found["cost"]["total"] == 7.5
    assert found["cost"]["per_million_images"] == pytest.approx(7.5 / 41 * 1e6, abs=0.01)
    areas = dict.fromkeys(LABELS, 0)
    for image in images[:40]:
        for label_id, share in image.shares.items():
            areas[LABELS[label_id]] += round(share * 24 * 32)
    assert {row["label"]: row["area"] for row in found["labels"]} == areas
    assert {row["segments"] for row in found["labels"]} == {40}
    assert sum(row["area_share"] for row in found["labels"]) == pytest.approx(1, abs=1e-5)
    assert sum(found["coverage_histogram"]) == sum(found["mean_score_histogram"]) == 40
    assert found["mean_score"] == pytest.approx(np.mean([i.score for i in images[:40]]), abs=1e-5)


def test_units_of_other_runs_are_not_counted(tmp_path):
    table = new_table(tmp_path)
    label_run(table, "20260101T020000-x", {"other": usual_images("x", 30, seed=1)})
    label_run(table, RUN, {"now": usual_images("now", 10, seed=2)})
    publish_report(table, RUN, report(RUN), QUIET)
    assert published_report(table, RUN)["images_labelled"] == 10


def test_units_that_go_away_meanwhile_are_left_out(tmp_path):
    table = new_table(tmp_path)
    images = usual_images("now", 40, seed=1)
    label_run(table, RUN, {"a": images[:10], "b": images[10:30], "c": images[30:]})
    table.storage.delete([table.file("segments", "b.parquet")])
    publish_report(table, RUN, report(RUN), ReportSettings())
    assert published_report(table, RUN)["images_labelled"] == 20
    assert published_report(table, RUN)["units_reported"] == 2


def _aggregates(
    random: np.random.Generator, *, images: int, labels: int, alpha: float
) -> RunAggregates:
    """A run in which labels come in clusters: most images hold a few of many labels."""
    usual = 1 / np.arange(1, labels + 1)
    mixes = random.dirichlet(alpha * usual / usual.sum(), images)
    counts = random.poisson(8 * mixes)
    areas = np.round(mixes * 1e6)
    scores = np.clip(random.normal(0.9, 0.05, images), 0, 0.999)
    bins = np.bincount((scores * BINS).astype(int), minlength=BINS)
    return RunAggregates(
        images=images,
        areas=areas.sum(0),
        counts=counts.sum(0),
        scores=counts.sum(0) * 0.9,
        mean_scores=bins,
        coverages=bins,
        mean_score_sum=float(scores.sum()),
        coverage_sum=float(scores.sum()),
        squared_areas=float((areas.sum(1) ** 2).sum()),
        squared_counts=float((counts.sum(1) ** 2).sum()),
    )


@pytest.mark.parametrize("labels", [4, 30, 133])
def test_chance_alone_gives_no_alarm(labels):
    random = np.random.default_rng(labels)
    names = [str(n) for n in range(labels)]
    judged = 0
    for images in (20, 60, 120, 250, 500, 1000, 2000):
        for _ in range(20):
            before = _aggregates(random, images=3 * images, labels=labels, alpha=2.0)
            now = _aggregates(random, images=images, labels=labels, alpha=2.0)
            found = measure_drift(now, before, labels=names, settings=ReportSettings())
            judged += sum(drift.level != "unknown" for drift in found)
            assert not [drift for drift in found if drift.level == "alarm"], images
    assert judged > 100
