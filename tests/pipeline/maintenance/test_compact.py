"""Compaction changes which files are read, and at no moment what is read."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from compaction import (
    add_units,
    compact_table,
    file_contents,
    rows_by_pattern,
    rows_seen,
    target_that_keeps_files,
)
from drawn_tables import assert_is_sound, commit, draw_table, rewrite
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.cli.running import run_job
from pipeline.maintenance.compact.compaction_plan import plan_compaction
from pipeline.storage import Storage, join
from pipeline.table.compacted import CompactedFile, pointer_generations, read_pointer
from pipeline.table.store import TableStore, segments

# Readers


def test_readers_see_the_same_rows_in_fewer_files(place):
    storage, root = place
    table = draw_table(join(root, "table"), storage=storage)
    before = rows_seen(table)
    assert len(segments(table.uri, storage=storage).files) == 3
    compact_table(table)
    assert rows_seen(table) == before
    assert len(segments(table.uri, storage=storage).files) == 1
    assert table.done_units() == {"a", "b", "c"}
    add_units(table, "e", number=1)
    assert sum(rows_seen(table)["images"].values()) == 24
    assert table.done_units() == {"a", "b", "c", "e"}


def test_patterns_read_the_units_own_files_as_before(table):
    before = rows_by_pattern(table)
    compact_table(table)
    assert rows_by_pattern(table) == before == rows_seen(table)


def test_rows_of_an_image_are_together_and_images_in_order(table):
    compact_table(table)
    ids = segments(table.uri).to_table()["image_id"].to_pylist()
    assert ids == sorted(ids)
    numbers = [
        (row["image_id"], row["segment_id"]) for row in segments(table.uri).to_table().to_pylist()
    ]
    assert numbers == sorted(numbers)


def test_other_tools_read_what_the_dataset_names(table):
    compact_table(table)
    dataset = segments(table.uri)
    query = "SELECT count(*), count(DISTINCT image_id) FROM"
    expected = duckdb.sql(f"{query} '{table.uri}/segments/*.parquet'").fetchall()
    assert duckdb.sql(f"{query} read_parquet({dataset.files})").fetchall() == expected
    connection = duckdb.connect()
    connection.register("found", dataset)
    assert connection.sql(f"{query} found").fetchall() == expected


def test_units_without_images_stay_done_through_every_compaction(table):
    commit(table, "empty", [])
    commit(table, "void", [])
    compact_table(table)
    add_units(table, "e", "f", "g", "h", "i", "j", number=1)
    compact_table(table)
    assert {"empty", "void"} <= table.done_units()
    assert len(read_pointer(table.uri, storage=table.storage).files) == 1


def test_a_reader_that_opened_the_table_before_reads_on(table):
    opened = segments(table.uri)
    before = opened.count_rows()
    compact_table(table)
    between = segments(table.uri)
    add_units(table, "e", "f", "g", "h", "i", number=1)
    compact_table(table)
    assert opened.count_rows() == between.count_rows() == before
    assert between.files != segments(table.uri).files


# Written files


def test_the_same_units_give_the_same_bytes_and_a_second_time_gives_nothing(tmp_path, table):
    shutil.copytree(table.uri, tmp_path / "copy")
    copy = TableStore(str(tmp_path / "copy"), Storage())
    for each in (table, copy):
        compact_table(each)
    first = file_contents(table)
    assert first == file_contents(copy)
    compact_table(table)
    assert file_contents(table) == first


def test_large_files_are_not_written_again(large):
    table = large
    compact_table(table)
    before = file_contents(table, "_compacted")
    add_units(table, "e", "f", number=1)
    compact_table(table, target_bytes=target_that_keeps_files(table))
    after = file_contents(table, "_compacted")
    assert before.items() <= after.items()
    pointer = read_pointer(table.uri, storage=table.storage)
    assert [file.num_units for file in pointer.files] == [4, 2]
    assert_is_sound(table)


def test_files_end_at_a_units_end_near_the_target(table):
    add_units(table, *map(str, range(10, 30)), number=1)
    compact_table(table, target_bytes=60_000)
    pointer = read_pointer(table.uri, storage=table.storage)
    assert len(pointer.files) > 1
    assert sum(file.num_units for file in pointer.files) == 24
    assert_is_sound(table)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=120))
def test_each_byte_is_written_few_times_and_few_files_stay_small(nights):
    target = 2**14
    there: list[CompactedFile] = []
    waiting: dict[str, int] = {}
    written = 0
    for night, size in enumerate(nights):
        waiting[str(night)] = size
        plan = plan_compaction(waiting, files=there, target_bytes=target)
        if not plan.saves_files:
            continue
        joined = sum(waiting.values()) + sum(file.num_bytes for file in plan.absorbed)
        written += joined
        assert all(1.5 * file.num_bytes <= joined for file in plan.absorbed)
        there = [*plan.kept, compacted_file(joined)]
        waiting = {}
        small = [file.num_bytes for file in there if file.num_bytes < target // 2]
        assert len(small) <= 14
    # From 1 to half the target, half as large again each time, takes 23 times.
    assert written <= 24 * sum(nights)


def compacted_file(num_bytes: int) -> CompactedFile:
    return CompactedFile(
        segments="s", images="i", num_units=1, num_images=1, num_segments=1, num_bytes=num_bytes
    )


def test_one_new_unit_beside_large_files_waits(large):
    table = large
    compact_table(table)
    before = file_contents(table, "_compacted")
    add_units(table, "e", number=1)
    compact_table(table, target_bytes=target_that_keeps_files(table))
    assert file_contents(table, "_compacted") == before


def test_a_damaged_unit_ends_it_before_anything_changes(table, capsys):
    before = file_contents(table, "_compacted")
    rewrite(table, "segments/b.parquet", lambda found: found.pop())
    seen = rows_seen(table)
    assert run_job("compact", [table.uri]) == 1
    assert "segments/b.parquet: it has" in capsys.readouterr().err
    assert (rows_seen(table), pointer_generations(table.uri, storage=table.storage)) == (seen, {})
    assert before == {}
    Path(table.file("segments/b.parquet")).write_bytes(b"")
    assert run_job("compact", [table.uri]) == 1
    assert "see maskformer verify" in capsys.readouterr().err


def test_a_unit_of_another_table_is_not_taken_in(table, capsys):
    rewrite(table, "images/b.parquet", lambda found: None, table_fingerprint="0")
    assert run_job("compact", [table.uri]) == 1
    assert "table_fingerprint" in capsys.readouterr().err


# The command


def test_the_command_says_what_changed(table, capsys):
    assert run_job("compact", [table.uri]) == 0
    said = capsys.readouterr().out
    assert re.match(
        r"joined 4 units in 0 s: readers opened 8 files of [\d.]+ kB before, and 2 files of ", said
    )
    assert said.endswith("nothing to remove\n")
    assert run_job("compact", [table.uri]) == 0
    assert capsys.readouterr().out.startswith("nothing to join: readers open 2 files of ")


def test_compact_runs_as_people_type_it(table):
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "compact",
        table.uri,
        "--target_bytes",
        "1000000",
    ]
    root = Path(pipeline.__file__).parents[1]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("joined 4 units")
    (pointer,) = Path(table.uri).glob("_compacted/pointers/*.json")
    assert json.loads(pointer.read_text())["generation"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "is no segment table"),
        (["/nowhere", "--target_bytes", "0"], "target_bytes must be at least 1, got 0"),
        (["/nowhere", "--remove_units_after_days", "0"], "remove_units_after_days must be at"),
    ],
)
def test_wrong_usage_of_compact_is_one_line(capsys, words, message):
    assert run_job("compact", words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
