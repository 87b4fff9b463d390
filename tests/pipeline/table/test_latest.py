"""Of each image the latest rows, in Python and in SQL alike."""

import os
import re
from pathlib import Path

import duckdb
import pytest
from corpora import put, tar
from small_tables import finish, latest_areas, settled

from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.table import latest
from pipeline.table.store import TableStore


def change(corpus: str, name: str, size: int) -> None:
    """Writes the file anew, with a time of its own; the same size and time are the same version."""
    put(Path(corpus), {name: bytes(size)})
    os.utime(Path(corpus, name), (size, size))


def images_sql() -> str:
    """The statement as the module's docstring has it."""
    (found,) = re.findall(r"SELECT i\..*?image_id\)", str(latest.__doc__), re.DOTALL)
    return found


def by_sql(table: TableStore) -> dict[str, int]:
    chosen = images_sql().replace("TABLE", table.uri)
    rows = duckdb.sql(
        f"""SELECT s.image_id, s.area
        FROM read_parquet('{table.uri}/segments/*.parquet', filename = true) s JOIN ({chosen}) l
        ON s.image_id = l.image_id AND parse_filename(s.filename, true) = l.unit_id"""
    ).fetchall()
    assert len({image_id for image_id, _ in rows}) == len(rows)
    return dict(rows)


def night(corpus: str, table: TableStore, run_id: str) -> list[str]:
    """Labels what is new; the names of what was."""
    plan = settled(corpus, table, run_id)
    finish(plan.units, table)
    return [source.name for unit in plan.units for source in unit.sources]


def test_a_changed_image_has_its_new_rows_and_one_that_is_gone_keeps_its_old_ones(tmp_path, table):
    corpus = str(tmp_path / "c")
    for name, size in (("a.jpg", 1), ("b.jpg", 2), ("c.jpg", 3), ("d.jpg", 4)):
        change(corpus, name, size)
    night(corpus, table, "run-1")
    change(corpus, "b.jpg", 20)
    change(corpus, "e.jpg", 5)
    Path(corpus, "a.jpg").unlink()
    assert night(corpus, table, "run-2") == ["b.jpg", "e.jpg"]
    expected = {"a.jpg": 1, "b.jpg": 20, "c.jpg": 3, "d.jpg": 4, "e.jpg": 5}
    assert latest_areas(table) == by_sql(table) == expected
    change(corpus, "b.jpg", 200)
    assert night(corpus, table, "run-3") == ["b.jpg"]
    assert latest_areas(table) == by_sql(table) == expected | {"b.jpg": 200}
    rows = latest.latest_images(table.uri).read_all()
    assert sorted(rows["image_id"].to_pylist()) == sorted(expected)
    assert night(corpus, table, "run-4") == []


@pytest.mark.parametrize("name", ["a.jpg", "a.tar"])
def test_one_that_changes_back_has_rows_of_what_it_is_now(tmp_path, table, name):
    """The second time it is a unit of its own: the first one's rows are older than the change."""
    corpus = str(tmp_path / "c")

    def put_version(number: int) -> None:
        data = tar([("x.jpg", bytes(number))]) if name == "a.tar" else bytes(number)
        put(Path(corpus), {name: data})
        os.utime(Path(corpus, name), (number, number))

    image_id = "a.tar/x" if name == "a.tar" else name
    for run, version in enumerate([10, 20, 10, 10, 20, 30, 10]):
        put_version(version)
        night(corpus, table, f"run-{run}")
        assert latest_areas(table) == by_sql(table) == {image_id: version}, run


def test_a_unit_of_an_older_version_that_is_done_late_is_still_the_older(tmp_path, table):
    corpus = str(tmp_path / "c")
    change(corpus, "a.jpg", 1)
    slow = settled(corpus, table, "slow")
    before = Path(corpus, "a.jpg").read_bytes(), os.stat(Path(corpus, "a.jpg"))
    change(corpus, "a.jpg", 2)
    night(corpus, table, "fast")
    Path(corpus, "a.jpg").write_bytes(before[0])
    os.utime(Path(corpus, "a.jpg"), ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    finish(slow.units, table)  # it had read the image before it changed
    assert latest_areas(table) == by_sql(table) == {"a.jpg": 2}


def test_a_plan_that_never_came_into_force_decides_nothing(tmp_path, table):
    """A crash between the plan and its number leaves a plan that says it is the next."""
    corpus = str(tmp_path / "c")
    change(corpus, "a.jpg", 1)
    change(corpus, "b.jpg", 1)
    first = settled(corpus, table, "run-1")
    leftover = settled(corpus, table, "crashed")
    assert leftover.units == first.units
    number = table.file("_runs", "order", "00000001")
    table.storage.delete([number])
    finish(first.units, table)
    change(corpus, "a.jpg", 2)
    night(corpus, table, "run-2")
    assert latest_areas(table) == by_sql(table) == {"a.jpg": 2, "b.jpg": 1}


def test_what_is_in_error_now_has_no_segments_of_before(tmp_path, table):
    corpus = str(tmp_path / "c")
    change(corpus, "a.jpg", 1)
    night(corpus, table, "run-1")
    change(corpus, "a.jpg", 2)
    plan = settled(corpus, table, "run-2")
    finish(plan.units, table, errors={"a.jpg": "NotAnImage"})
    assert latest_areas(table) == by_sql(table) == {}
    (row,) = (
        latest.latest_images(table.uri, columns=["image_id", "error_class"]).read_all().to_pylist()
    )
    assert row == {"image_id": "a.jpg", "error_class": "NotAnImage"}


def test_an_empty_table_has_no_latest_rows(tmp_path, table):
    corpus = put(tmp_path / "c", {"a.jpg": b"1"})
    settled(corpus, table, "run-1")
    assert latest.latest_images(table.uri).read_all().num_rows == 0
    assert latest.latest_segments(table.uri).read_all().num_rows == 0


def test_it_is_the_same_when_units_were_joined(tmp_path, table, capsys):
    corpus = str(tmp_path / "c")
    for run in range(3):
        for number in range(12):
            change(corpus, f"{number:02}.jpg", 10 * run + number % (run + 2) + 1)
        night(corpus, table, f"run-{run}")
    before = latest_areas(table)
    compact(table, CompactSettings(table=table.uri))
    assert table.units().compacted
    assert latest_areas(table) == before
    change(corpus, "00.jpg", 99)
    night(corpus, table, "after")
    assert latest_areas(table) == before | {"00.jpg": 99}
