"""What is new is found out of core, whatever happened to corpus and plans before."""

import os
import tempfile
from pathlib import Path

import pytest
from as_files import encode_table
from corpora import put, tar
from file_histories import histories
from hypothesis import HealthCheck, given, settings
from small_tables import finish, settled

from pipeline.corpora.sources import Source
from pipeline.planning import listing_diff
from pipeline.planning.ranges import Ranges
from pipeline.storage import Storage
from pipeline.table import latest, plans, scratch
from pipeline.table.store import TableStore, images


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets batches to three rows, so that a few files need several, and the disk."""
    monkeypatch.setattr(listing_diff, "_BATCH_ROWS", 3)
    monkeypatch.setattr(scratch, "_BATCH_ROWS", 3)
    monkeypatch.setattr(plans, "_BATCH_ROWS", 3)


def write_version(root: Path, name: str, version: int) -> None:
    """Writes the same content and time for the same version, as where etags are hashes."""
    data = bytes(version)
    put(root, {name: tar([("x.jpg", data)]) if name.endswith("tar") else data})
    os.utime(root / name, (version, version))


def listed_names(plan) -> list[str]:
    return [source.name for unit in plan.units for source in unit.sources]


@given(histories())
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
def test_over_any_sequence_of_changes_the_latest_rows_are_those_of_what_is_there(history):
    _check_nights(history)


@pytest.mark.faults
@given(histories())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_over_many_sequences_of_changes_the_latest_rows_are_those_of_what_is_there(history):
    _check_nights(history)


def _check_nights(history) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "c")
        table = TableStore(str(Path(folder, "table")), Storage())
        write_version(root, "0.jpg", 1)
        now = {"0.jpg": 1}
        for number, night in enumerate(history):
            for name, version in night["changes"]:
                if version:
                    write_version(root, name, version)
                    now[name] = version
                elif now.pop(name, None):
                    Path(root, name).unlink()
            plan = settled(str(root), table, f"run-{number}", unit_images=night["unit_images"])
            finish(plan.units[: night["done"]], table)
        finish(settled(str(root), table, "last").units, table)

        areas = (
            latest.latest_segments(table.uri, columns=["image_id", "area"]).read_all().to_pylist()
        )
        found = {row["image_id"].removesuffix("/x"): row["area"] for row in areas}
        assert len(found) == len(areas)
        assert {name: found[name] for name in now} == now
        rows = images(table.uri).to_table(columns=["uri", "etag", "unit_id"]).to_pylist()
        assert len({(row["uri"], row["etag"], row["unit_id"]) for row in rows}) == len(rows)
        assert settled(str(root), table, "none").units == ()


def test_a_unit_that_was_given_up_is_not_gone_on_with_though_its_source_is_back(tmp_path, table):
    root = tmp_path / "c"
    for name in ("a.jpg", "b.jpg", "t.tar"):
        write_version(root, name, 1)
    all_three = settled(str(root), table, "run-1")
    (root / "b.jpg").unlink()
    settled(str(root), table, "run-2", is_trial=True)
    assert table.units().tombstones == set()
    rest = settled(str(root), table, "run-3")
    assert (listed_names(all_three), listed_names(rest)) == (
        ["a.jpg", "b.jpg", "t.tar"],
        ["a.jpg", "t.tar"],
    )
    assert table.units().tombstones == {all_three.units[0].unit_id}
    write_version(root, "b.jpg", 1)
    plan = settled(str(root), table, "run-4")
    assert plan.units[0] == rest.units[0]
    assert listed_names(plan) == ["a.jpg", "t.tar", "b.jpg"]
    finish(plan.units, table)
    assert settled(str(root), table, "run-5").units == ()


def test_the_same_sources_again_get_another_name_than_the_unit_that_was_given_up(tmp_path, table):
    """A run gives it up and ends before its plan; then what was gone is back."""
    root = tmp_path / "c"
    for name in ("a.jpg", "b.tar"):
        write_version(root, name, 1)
    (first,) = settled(str(root), table, "run-1").units
    assert table.write_tombstone(first.unit_id)
    (second,) = settled(str(root), table, "run-2").units
    assert [(s.uri, s.again) for s in second.sources] == [(s.uri, 1) for s in first.sources]
    assert second.unit_id != first.unit_id
    finish([second], table)
    assert settled(str(root), table, "run-3").units == ()


def test_a_unit_is_gone_on_with_if_what_is_not_listed_is_still_there(tmp_path, table):
    root = tmp_path / "c"
    for name in ("in/a.jpg", "in/b.tar", "out/c.jpg", "out/d.tar"):
        write_version(root, name, 1)
    whole = settled(str(root), table, "run-1", unit_images=9)
    assert settled(str(root / "in"), table, "run-2").units == whole.units
    (root / "out" / "c.jpg").unlink()
    assert listed_names(settled(str(root / "in"), table, "run-3")) == ["a.jpg", "b.tar"]


def test_units_that_have_nothing_to_do_with_what_is_asked_for_are_left_alone(tmp_path, table):
    root = tmp_path / "c"
    for name in ("in/a.jpg", "out/b.jpg", "out/c.tar"):
        write_version(root, name, 1)
    settled(str(root / "out"), table, "run-1")
    plan = settled(str(root / "in"), table, "run-2")
    assert listed_names(plan) == ["a.jpg"]
    assert plan.done == 0


def test_plans_without_the_newer_columns_are_read(tmp_path, table):
    import io

    import pyarrow.parquet as pq

    root = tmp_path / "c"
    for name in ("a.jpg", "b.jpg", "c.tar"):
        write_version(root, name, 1)
    first = settled(str(root), table, "run-1", unit_images=2)
    place = table.file("_runs", "run-1", "plan.parquet")
    rows = pq.read_table(io.BytesIO(table.storage.read(place)))
    table.storage.write(place, encode_table(rows.drop_columns(["again", "plan_number"])))
    finish(first.units[:1], table)
    assert settled(str(root), table, "run-2").units == first.units[1:]


def test_what_was_tried_more_often_keeps_out_what_was_tried_less_often():
    part = Source(uri="u", name="n", kind="tar", etag="e", size=9, start=3, stop=6, again=1)
    held = Ranges([part])
    for again, meets in ((0, True), (1, True), (2, False)):
        whole = Source(uri="u", name="n", kind="tar", etag="e", size=9, again=again)
        assert held.meet(whole) == meets
    assert held.attempts(Source(uri="u", name="n", kind="tar", etag="e", size=9)) == 2
    assert held.attempts(Source(uri="u", name="n", kind="tar", etag="other", size=9)) == 0
