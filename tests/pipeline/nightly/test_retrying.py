"""Images in error are tried again, a bounded number of times, and nothing else is."""

from pathlib import Path

import pytest
from corpora import parquet, put, tar
from small_tables import finish, settled

from pipeline.nightly.retrying import images_to_try_again
from pipeline.planning.planner import Plan
from pipeline.table import latest
from pipeline.table.store import TableStore, images


def retried(corpus: str, table: TableStore, run_id: str, *, attempts: int = 3, **options) -> Plan:
    failed = images_to_try_again(table, error_classes=["TooLarge"], max_attempts=attempts)
    return settled(corpus, table, run_id, failed=failed, **options)


def planned_retries(plan: Plan) -> list[tuple[str, int]]:
    return [(source.name, source.again) for unit in plan.units for source in unit.sources]


def write_photos(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names}


def test_only_images_in_error_of_that_class_are_tried_again_in_a_unit_of_their_own(tmp_path, table):
    corpus = put(tmp_path / "c", write_photos("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    first = settled(corpus, table, "run-1")
    finish(first.units, table, errors={"b.jpg": "TooLarge", "c.jpg": "NotAnImage"})
    plan = retried(corpus, table, "run-2")
    assert planned_retries(plan) == [("b.jpg", 1)]
    assert plan.tried_again == 1
    assert plan.units[0].unit_id not in {unit.unit_id for unit in first.units}
    finish(plan.units, table)
    rows = latest.latest_images(table.uri).read_all().to_pylist()
    assert {row["image_id"]: row["status"] for row in rows} == {
        "a.jpg": "ok", "b.jpg": "ok", "c.jpg": "error", "d.jpg": "ok",
    }  # fmt: skip
    assert retried(corpus, table, "run-3").units == ()


def test_a_single_image_is_tried_again_beside_its_first_unit(tmp_path, table):
    """Were the attempt no part of the unit's name, the unit would pass for done."""
    corpus = put(tmp_path / "c", write_photos("a.jpg"))
    first = settled(corpus, table, "run-1")
    finish(first.units, table, errors={"a.jpg": "TooLarge"})
    plan = retried(corpus, table, "run-2")
    assert planned_retries(plan) == [("a.jpg", 1)]
    assert plan.units[0].unit_id != first.units[0].unit_id


def test_attempts_are_counted_from_the_table_and_bounded(tmp_path, table):
    corpus = put(tmp_path / "c", write_photos("a.jpg", "b.jpg"))
    plans = []
    finish(settled(corpus, table, "first").units, table, errors={"b.jpg": "TooLarge"})
    for run in range(4):
        plan = retried(corpus, table, f"run-{run}", attempts=3)
        finish(plan.units, table, errors={"b.jpg": "TooLarge"})
        plans.append(planned_retries(plan))
    assert plans == [[("b.jpg", 1)], [("b.jpg", 2)], [], []]
    rows = images(table.uri).to_table().to_pylist()
    assert sum(row["image_id"] == "b.jpg" for row in rows) == 3
    (last,) = [
        r
        for r in latest.latest_images(table.uri).read_all().to_pylist()
        if r["image_id"] == "b.jpg"
    ]
    assert last["status"] == "error"


def test_one_that_changed_has_its_attempts_anew(tmp_path, table):
    corpus = put(tmp_path / "c", write_photos("a.jpg"))
    for run in range(2):
        plan = retried(corpus, table, f"run-{run}", attempts=2)
        finish(plan.units, table, errors={"a.jpg": "TooLarge"})
    assert retried(corpus, table, "run-2", attempts=2).units == ()
    put(tmp_path / "c", {"a.jpg": b"another, and longer"})
    for run in range(3, 5):
        plan = retried(corpus, table, f"run-{run}", attempts=2)
        assert [name for name, _ in planned_retries(plan)] == ["a.jpg"]
        finish(plan.units, table, errors={"a.jpg": "TooLarge"})
    assert retried(corpus, table, "run-5", attempts=2).units == ()


def test_an_attempt_that_is_planned_and_not_done_is_gone_on_with_and_not_planned_twice(
    tmp_path, table
):
    corpus = put(tmp_path / "c", write_photos("a.jpg", "b.jpg"))
    finish(settled(corpus, table, "run-1").units, table, errors={"b.jpg": "TooLarge"})
    planned = retried(corpus, table, "run-2")
    again = retried(corpus, table, "run-3")
    assert again.units == planned.units
    # Also by a run that tries nothing again.
    assert settled(corpus, table, "run-4").units == planned.units


def test_one_that_is_gone_is_left_alone(tmp_path, table):
    corpus = put(tmp_path / "c", write_photos("a.jpg", "b.jpg"))
    finish(settled(corpus, table, "run-1").units, table, errors={"b.jpg": "TooLarge"})
    Path(corpus, "b.jpg").unlink()
    assert retried(corpus, table, "run-2").units == ()
    assert {row["image_id"] for row in images(table.uri).to_table().to_pylist()} == {
        "a.jpg", "b.jpg",
    }  # fmt: skip


def test_of_an_archive_the_one_sample_is_read_again(tmp_path, table):
    members = [(f"{n}.jpg", bytes([n]) * 600) for n in range(5)]
    corpus = put(tmp_path / "c", {"s.tar": tar(members), "z.jpg": b"1"})
    finish(settled(corpus, table, "run-1").units, table, errors={"s.tar/3": "TooLarge"})
    plan = retried(corpus, table, "run-2")
    (unit,) = plan.units
    assert planned_retries(plan) == [("s.tar", 1)]
    assert (unit.num_images, unit.num_bytes) == (1, 1536)
    finish(plan.units, table)
    rows = latest.latest_images(table.uri).read_all().to_pylist()
    assert sorted((row["image_id"], row["status"]) for row in rows) == [
        *((f"s.tar/{n}", "ok") for n in range(5)), ("z.jpg", "ok"),
    ]  # fmt: skip
    assert retried(corpus, table, "run-3").units == ()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("s.tar.gz", tar([("0.jpg", b"1"), ("1.jpg", b"2")], compressed=True)),
        ("s.parquet", parquet({"image": [b"1", b"2"]})),
    ],
)
def test_what_cannot_be_cut_is_read_again_whole(tmp_path, table, name, data):
    corpus = put(tmp_path / "c", {name: data})
    finish(settled(corpus, table, "run-1").units, table, errors={f"{name}/1": "TooLarge"})
    plan = retried(corpus, table, "run-2")
    assert planned_retries(plan) == [(name, 1)]
    finish(plan.units, table)
    rows = latest.latest_images(table.uri).read_all().to_pylist()
    assert sorted((row["image_id"], row["status"]) for row in rows) == [
        (f"{name}/0", "ok"), (f"{name}/1", "ok"),
    ]  # fmt: skip


def test_a_table_that_is_not_there_has_nothing_to_try_again(table):
    assert images_to_try_again(table, error_classes=["TooLarge"], max_attempts=3) == []
