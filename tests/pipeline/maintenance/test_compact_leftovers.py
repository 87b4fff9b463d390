"""Files that nobody reads any more go when they are old enough, and not before."""

import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
from compaction import (
    DAY,
    add_units,
    compact_table,
    file_contents,
    make_older,
    rows_seen,
    target_that_keeps_files,
)
from drawn_tables import assert_is_sound, commit, image_row, plan, plan_unit, unit_rows
from hooked import interleaved

from pipeline.maintenance.compact.units import read_unit
from pipeline.storage import Storage
from pipeline.table.compacted import pointer_generations
from pipeline.table.store import SEGMENTS, TableStore, rows_of_unit


def test_own_files_go_when_a_compacted_file_has_held_them_long_enough(large):
    table = large
    expected = rows_seen(table)
    compact_table(table, remove_units_after_days=2)
    assert len(file_contents(table, "images")) == 4
    make_older(table, days=1.5)
    compact_table(table, remove_units_after_days=2)
    assert len(file_contents(table, "images")) == 4
    make_older(table, days=1)
    add_units(table, "e", number=1)
    compact_table(table, remove_units_after_days=2, target_bytes=target_that_keeps_files(table))
    assert {*file_contents(table, "images"), *file_contents(table, "segments")} == {
        "images/e.parquet", "segments/e.parquet",
    }  # fmt: skip
    assert expected["images"] <= rows_seen(table)["images"]
    assert sum(rows_seen(table)["images"].values()) == 4 * 40 + 6
    assert table.done_units() == set("abcde")
    assert_is_sound(table)


def test_a_units_segments_are_found_wherever_they_are(table):
    changed = [image_row(0, unit="e", image_id="a/0000.jpg", etag="another")]
    plan(table, [plan_unit("e", changed)], run_id="run-1", number=1)
    commit(table, "e", changed)
    expected = {unit: read_unit(table, unit).segments for unit in "abcde"}
    for _ in range(2):
        for unit, file in table.segment_files().items():
            found = pq.read_table(file.uri, filters=rows_of_unit(file.uri, unit))
            assert found.select(SEGMENTS.names).equals(expected[unit])
        compact_table(table)
        make_older(table, days=3)
        compact_table(table, remove_units_after_days=1)
    assert len({file.uri for file in table.segment_files().values()}) == 1


def test_a_unit_that_comes_again_after_its_removal_is_there_once(table):
    compact_table(table)
    make_older(table, days=3)
    compact_table(table, remove_units_after_days=1)
    expected = rows_seen(table)
    commit(table, "a", unit_rows("a"))  # by a run that planned it long ago
    assert rows_seen(table) == expected
    compact_table(table, remove_units_after_days=1)
    assert file_contents(table, "images") == {}
    assert rows_seen(table) == expected


def test_what_earlier_compactions_left_goes_after_a_day(table):
    compact_table(table)
    first = set(file_contents(table, "_compacted"))
    add_units(table, "e", "f", "g", "h", "i", number=1)
    compact_table(table)
    assert first <= set(file_contents(table, "_compacted"))
    dead = table.file("_compacted", "00000001-abcdef", "images", "000.parquet")
    coming = table.file("_compacted", "00000003-abcdef", "images", "000.parquet")
    for name in (dead, coming):
        table.storage.write(name, b"of a compaction that was not first, or is under way")
    make_older(table, days=2)
    expected = rows_seen(table)
    compact_table(table)
    left = set(file_contents(table, "_compacted"))
    assert not left & first
    assert not Path(dead).exists()
    assert Path(coming).exists()
    assert rows_seen(table) == expected
    assert pointer_generations(table.uri, storage=table.storage).keys() == {2}


def test_drafts_and_staged_parts_go_when_they_are_old(table, capsys):
    names = [
        table.file("images", f".x.parquet.{'0' * 32}.tmp"),
        table.file("_runs", f"..1.{'0' * 32}.tmp.{'1' * 32}.tmp"),
        table.file("_staging", "x", "part"),
    ]
    for name in names:
        table.storage.write(name, b"half")
    compact_table(table)
    assert all(Path(name).exists() for name in names)
    for name in names:
        os.utime(name, (time.time() - 2 * DAY,) * 2)
    capsys.readouterr()
    compact_table(table)
    assert not any(Path(name).exists() for name in names)
    said = capsys.readouterr().out
    assert "removed 3 files of 12 bytes: 2 × draft of a write, 1 × staged part" in said


def test_segments_of_a_stopped_commit_stay_unless_the_unit_was_given_up(table):
    drawn = {unit: unit_rows(unit) for unit in ("open", "dead")}
    plan(table, [plan_unit(u, drawn[u]) for u in drawn], run_id="run-1", number=1)
    for unit in drawn:
        commit(table, unit, drawn[unit])
        table.storage.delete([table.file("images", f"{unit}.parquet")])
    make_older(table, days=2, folder="segments")
    compact_table(table)
    assert {"segments/open.parquet", "segments/dead.parquet"} <= file_contents(
        table, "segments"
    ).keys()
    assert table.write_tombstone("dead")
    compact_table(table)
    assert "segments/open.parquet" in file_contents(table, "segments")
    assert "segments/dead.parquet" not in file_contents(table, "segments")
    assert table.units().tombstones == {"dead"}


def test_a_unit_that_is_committed_at_this_moment_keeps_its_segments(tmp_path, table):
    drawn = unit_rows("x")
    plan(table, [plan_unit("x", drawn)], run_id="run-1", number=1)
    commit(table, "x", drawn)
    table.storage.delete([table.file("images", "x.parquet")])
    make_older(table, days=2)
    for seed in range(10):
        copy = str(shutil.copytree(table.uri, tmp_path / str(seed)))
        interleaved(
            lambda storage, copy=copy: compact_table(TableStore(copy, storage)),
            lambda storage, copy=copy: commit(TableStore(copy, storage), "x", drawn),
            seed=seed,
        )
        assert_is_sound(TableStore(copy, Storage()))
        assert "x" in TableStore(copy, Storage()).done_units()
