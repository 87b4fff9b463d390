"""Compaction changes which files are read, and at no moment what is read."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from drawn_tables import commit, draw_table, image_row, plan, plan_unit, rewrite, unit_rows
from hooked import Crash, crash_at, interleaved
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.cli.running import run_job
from pipeline.maintenance.compact.compaction_plan import plan_compaction
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.compact.units import read_unit
from pipeline.maintenance.settings import CompactSettings
from pipeline.maintenance.verify.tables import verify_table
from pipeline.storage import Storage, join
from pipeline.table.compacted import CompactedFile, pointer_generations, read_pointer
from pipeline.table.store import SEGMENTS, TableStore, images, rows_of_unit, segments

DAY = 24 * 3600


def compacted(table: TableStore, **settings: Any) -> None:
    compact(table, CompactSettings(table=table.uri, **settings))


def rows(table: TableStore) -> dict[str, Counter[str]]:
    """All rows that a reader of `pipeline.table.store` sees, in no order."""
    return {
        part: Counter(map(repr, opened(table.uri, storage=table.storage).to_table().to_pylist()))
        for part, opened in (("images", images), ("segments", segments))
    }


def rows_by_pattern(table: TableStore) -> dict[str, Counter[str]]:
    """The same, of a tool that knows of no compaction; images are those of whole units."""
    found = {}
    for part, schema in (("images", images), ("segments", segments)):
        relation = duckdb.sql(f"SELECT * FROM '{table.uri}/{part}/*.parquet'")
        columns = schema(table.uri).schema.names
        found[part] = Counter(
            repr(dict(zip(columns, row, strict=True))) for row in relation.fetchall()
        )
    return found


def files(table: TableStore, folder: str = "") -> dict[str, bytes]:
    root = Path(table.uri, folder)
    return {
        str(path.relative_to(table.uri)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def age(table: TableStore, *, days: float, folder: str = "") -> None:
    """Makes all files there older."""
    for path in Path(table.uri, folder).rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - days * DAY,) * 2)


def add_units(table: TableStore, *units: str, number: int, count: int = 6) -> None:
    drawn = {unit: unit_rows(unit, images=count) for unit in units}
    plan(table, [plan_unit(u, drawn[u]) for u in units], run_id=f"run-{number}", number=number)
    for unit in units:
        commit(table, unit, drawn[unit])


def is_sound(table: TableStore) -> bool:
    verdict = verify_table(table, sample=1.0, num_threads=2, most_examples=5)
    assert verdict.findings.examples == {}
    return True


@pytest.fixture
def table(tmp_path) -> TableStore:
    return draw_table(str(tmp_path / "table"), units=("c", "a", "d", "b"))


@pytest.fixture
def large(tmp_path) -> TableStore:
    """Whose units together are larger than those that tests add."""
    return draw_table(str(tmp_path / "table"), units=("c", "a", "d", "b"), images=40)


def as_it_is(table: TableStore) -> int:
    """The target with which the first compacted file is just large enough to stay."""
    return 2 * read_pointer(table.uri, storage=table.storage).files[0].num_bytes


# What readers see


def test_readers_see_the_same_rows_in_fewer_files(place):
    storage, root = place
    table = draw_table(join(root, "table"), storage=storage)
    before = rows(table)
    assert len(segments(table.uri, storage=storage).files) == 3
    compacted(table)
    assert rows(table) == before
    assert len(segments(table.uri, storage=storage).files) == 1
    assert table.done_units() == {"a", "b", "c"}
    add_units(table, "e", number=1)
    assert sum(rows(table)["images"].values()) == 24
    assert table.done_units() == {"a", "b", "c", "e"}


def test_patterns_read_the_units_own_files_as_before(table):
    before = rows_by_pattern(table)
    compacted(table)
    assert rows_by_pattern(table) == before == rows(table)


def test_rows_of_an_image_are_together_and_images_in_order(table):
    compacted(table)
    ids = segments(table.uri).to_table()["image_id"].to_pylist()
    assert ids == sorted(ids)
    numbers = [
        (row["image_id"], row["segment_id"]) for row in segments(table.uri).to_table().to_pylist()
    ]
    assert numbers == sorted(numbers)


def test_other_tools_read_what_the_dataset_names(table):
    compacted(table)
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
    compacted(table)
    add_units(table, "e", "f", "g", "h", "i", "j", number=1)
    compacted(table)
    assert {"empty", "void"} <= table.done_units()
    assert len(read_pointer(table.uri, storage=table.storage).files) == 1


def test_a_reader_that_opened_the_table_before_reads_on(table):
    opened = segments(table.uri)
    before = opened.count_rows()
    compacted(table)
    between = segments(table.uri)
    add_units(table, "e", "f", "g", "h", "i", number=1)
    compacted(table)
    assert opened.count_rows() == between.count_rows() == before
    assert between.files != segments(table.uri).files


# What is written


def test_the_same_units_give_the_same_bytes_and_a_second_time_gives_nothing(tmp_path, table):
    shutil.copytree(table.uri, tmp_path / "copy")
    copy = TableStore(str(tmp_path / "copy"), Storage())
    for each in (table, copy):
        compacted(each)
    first = files(table)
    assert first == files(copy)
    compacted(table)
    assert files(table) == first


def test_large_files_are_not_written_again(large):
    table = large
    compacted(table)
    before = files(table, "_compacted")
    add_units(table, "e", "f", number=1)
    compacted(table, target_bytes=as_it_is(table))
    after = files(table, "_compacted")
    assert before.items() <= after.items()
    pointer = read_pointer(table.uri, storage=table.storage)
    assert [file.num_units for file in pointer.files] == [4, 2]
    assert is_sound(table)


def test_files_end_at_a_units_end_near_the_target(table):
    add_units(table, *map(str, range(10, 30)), number=1)
    compacted(table, target_bytes=60_000)
    pointer = read_pointer(table.uri, storage=table.storage)
    assert len(pointer.files) > 1
    assert sum(file.num_units for file in pointer.files) == 24
    assert is_sound(table)


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
    compacted(table)
    before = files(table, "_compacted")
    add_units(table, "e", number=1)
    compacted(table, target_bytes=as_it_is(table))
    assert files(table, "_compacted") == before


def test_a_damaged_unit_ends_it_before_anything_changes(table, capsys):
    before = files(table, "_compacted")
    rewrite(table, "segments/b.parquet", lambda found: found.pop())
    seen = rows(table)
    assert run_job("compact", [table.uri]) == 1
    assert "segments/b.parquet: it has" in capsys.readouterr().err
    assert (rows(table), pointer_generations(table.uri, storage=table.storage)) == (seen, {})
    assert before == {}
    Path(table.file("segments/b.parquet")).write_bytes(b"")
    assert run_job("compact", [table.uri]) == 1
    assert "see maskformer verify" in capsys.readouterr().err


def test_a_unit_of_another_table_is_not_taken_in(table, capsys):
    rewrite(table, "images/b.parquet", lambda found: None, table_fingerprint="0")
    assert run_job("compact", [table.uri]) == 1
    assert "table_fingerprint" in capsys.readouterr().err


# Crashes and others beside it


EVERY = [5, pytest.param(1, marks=pytest.mark.faults)]
"""Before every so-many-th operation a compaction is stopped."""


def stopped(
    base: Path,
    folder: Path,
    *,
    every: int,
    check: Callable[[TableStore], None],
    **settings: Any,
) -> int:
    """Stops a compaction at its operations, one by one; each time another one ends it alike."""
    whole = TableStore(str(shutil.copytree(base, folder / "whole")), Storage())
    compacted(whole, **settings)
    end = files(whole)
    for operation in range(0, 500, every):
        copy = shutil.copytree(base, folder / str(operation))
        table = TableStore(str(copy), Storage())
        storage, seen = crash_at(operation)
        try:
            compacted(TableStore(table.uri, storage), **settings)
        except Crash:
            pass
        else:
            return len(seen)
        check(table)
        compacted(table, **settings)
        check(table)
        assert files(table) == end, seen[-1:]
        shutil.rmtree(copy)
    raise AssertionError("it has no end")


@pytest.mark.parametrize("every", EVERY)
def test_a_crash_at_any_operation_changes_nothing_and_the_next_ends_alike(tmp_path, table, every):
    expected = rows(table)

    def check(copy: TableStore) -> None:
        assert rows(copy) == expected
        assert rows_by_pattern(copy) == expected
        assert copy.done_units() == {"a", "b", "c", "d"}

    assert stopped(Path(table.uri), tmp_path, every=every, check=check) >= 15


@pytest.mark.parametrize("every", EVERY)
def test_a_crash_while_files_are_removed_loses_and_doubles_nothing(tmp_path, large, every):
    table = large
    compacted(table)
    add_units(table, "e", "f", "g", "h", "i", number=1)
    age(table, days=3)
    opened = segments(table.uri).files
    expected = rows(table)

    def check(copy: TableStore) -> None:
        assert rows(copy) == expected
        assert copy.done_units() == set("abcdefghi")
        # Who opened the table before finds all files again.
        left = [name.replace(table.uri, copy.uri) for name in opened]
        assert all(Path(name).is_file() for name in left)

    target = as_it_is(table)
    operations = stopped(
        Path(table.uri),
        tmp_path,
        every=every,
        check=check,
        remove_units_after_days=1,
        target_bytes=target,
    )
    assert operations >= 30
    assert set(files(TableStore(str(tmp_path / "whole"), Storage()), "images")) == {
        f"images/{unit}.parquet" for unit in "efghi"
    }


def test_own_files_go_when_a_compacted_file_has_held_them_long_enough(large):
    table = large
    expected = rows(table)
    compacted(table, remove_units_after_days=2)
    assert len(files(table, "images")) == 4
    age(table, days=1.5)
    compacted(table, remove_units_after_days=2)
    assert len(files(table, "images")) == 4
    age(table, days=1)
    add_units(table, "e", number=1)
    compacted(table, remove_units_after_days=2, target_bytes=as_it_is(table))
    assert {*files(table, "images"), *files(table, "segments")} == {
        "images/e.parquet", "segments/e.parquet",
    }  # fmt: skip
    assert expected["images"] <= rows(table)["images"]
    assert sum(rows(table)["images"].values()) == 4 * 40 + 6
    assert table.done_units() == set("abcde")
    assert is_sound(table)


def test_a_units_segments_are_found_wherever_they_are(table):
    changed = [image_row(0, unit="e", image_id="a/0000.jpg", etag="another")]
    plan(table, [plan_unit("e", changed)], run_id="run-1", number=1)
    commit(table, "e", changed)
    expected = {unit: read_unit(table, unit).segments for unit in "abcde"}
    for _ in range(2):
        for unit, file in table.segment_files().items():
            found = pq.read_table(file.uri, filters=rows_of_unit(file.uri, unit))
            assert found.select(SEGMENTS.names).equals(expected[unit])
        compacted(table)
        age(table, days=3)
        compacted(table, remove_units_after_days=1)
    assert len({file.uri for file in table.segment_files().values()}) == 1


def test_a_unit_that_comes_again_after_its_removal_is_there_once(table):
    compacted(table)
    age(table, days=3)
    compacted(table, remove_units_after_days=1)
    expected = rows(table)
    commit(table, "a", unit_rows("a"))  # by a run that planned it long ago
    assert rows(table) == expected
    compacted(table, remove_units_after_days=1)
    assert files(table, "images") == {}
    assert rows(table) == expected


@pytest.mark.parametrize("remove", [None, 1])
@pytest.mark.parametrize("seeds", [3, pytest.param(40, marks=pytest.mark.faults)])
def test_compactions_readers_planners_and_runs_at_once_disturb_nobody(
    tmp_path, large, remove, seeds
):
    table, targets, images_each = large, (10**6, 10**7), 40
    if remove:
        compacted(table)
        targets = (as_it_is(table), as_it_is(table) + 2)  # one of them absorbs the file
        add_units(table, "e", "f", "g", "h", "i", number=1, count=images_each)
        age(table, days=3)
    base = table.done_units()
    certain = rows(table)

    def whole_and_once(found: dict[str, Counter[str]]) -> None:
        for part in ("images", "segments"):
            assert certain[part] <= found[part]
        assert max(found["images"].values()) == 1
        assert sum(found["images"].values()) % images_each == 0

    for seed in range(seeds):
        copy = str(shutil.copytree(table.uri, tmp_path / str(seed)))

        def joining(target: int, *, copy: str = copy) -> Callable[[Storage], None]:
            settings = {"target_bytes": target, "remove_units_after_days": remove}
            return lambda storage: compacted(TableStore(copy, storage), **settings)

        def reading(storage: Storage, *, copy: str = copy) -> None:
            for _ in range(3):
                whole_and_once(rows(TableStore(copy, storage)))

        def planning(storage: Storage, *, copy: str = copy) -> None:
            for _ in range(3):
                assert base <= TableStore(copy, storage).done_units()

        def running(storage: Storage, *, copy: str = copy) -> None:
            commit(TableStore(copy, storage), "x", unit_rows("x", images=images_each))
            commit(TableStore(copy, storage), "a", unit_rows("a", images=images_each))

        interleaved(*map(joining, targets), reading, planning, running, seed=seed)
        end = TableStore(copy, Storage())
        whole_and_once(rows(end))
        assert end.done_units() == base | {"x"}
        compacted(end)
        whole_and_once(rows(end))
        shutil.rmtree(copy)


def test_of_two_that_join_the_same_units_one_counts(table, capsys):
    for seed in range(6):
        interleaved(
            *(
                lambda storage, target=target: compacted(
                    TableStore(table.uri, storage), target_bytes=target
                )
                for target in (10**6, 10**5)
            ),
            seed=seed,
        )
        said = capsys.readouterr().out
        assert said.count("joined 4 units") == 1
        assert said.count("another compaction finished first") + said.count("nothing to join") == 1
        assert is_sound(table)
        shutil.rmtree(Path(table.uri, "_compacted"))


# What crashed runs left


def test_what_earlier_compactions_left_goes_after_a_day(table):
    compacted(table)
    first = set(files(table, "_compacted"))
    add_units(table, "e", "f", "g", "h", "i", number=1)
    compacted(table)
    assert first <= set(files(table, "_compacted"))
    dead = table.file("_compacted", "00000001-abcdef", "images", "000.parquet")
    coming = table.file("_compacted", "00000003-abcdef", "images", "000.parquet")
    for name in (dead, coming):
        table.storage.write(name, b"of a compaction that was not first, or is under way")
    age(table, days=2)
    expected = rows(table)
    compacted(table)
    left = set(files(table, "_compacted"))
    assert not left & first
    assert not Path(dead).exists()
    assert Path(coming).exists()
    assert rows(table) == expected
    assert pointer_generations(table.uri, storage=table.storage).keys() == {2}


def test_drafts_and_staged_parts_go_when_they_are_old(table, capsys):
    names = [
        table.file("images", f".x.parquet.{'0' * 32}.tmp"),
        table.file("_runs", f"..1.{'0' * 32}.tmp.{'1' * 32}.tmp"),
        table.file("_staging", "x", "part"),
    ]
    for name in names:
        table.storage.write(name, b"half")
    compacted(table)
    assert all(Path(name).exists() for name in names)
    for name in names:
        os.utime(name, (time.time() - 2 * DAY,) * 2)
    capsys.readouterr()
    compacted(table)
    assert not any(Path(name).exists() for name in names)
    said = capsys.readouterr().out
    assert "removed 3 files of 0.0 MB: 2 × draft of a write, 1 × staged part" in said


def test_segments_of_a_stopped_commit_stay_unless_the_unit_was_given_up(table):
    drawn = {unit: unit_rows(unit) for unit in ("open", "dead")}
    plan(table, [plan_unit(u, drawn[u]) for u in drawn], run_id="run-1", number=1)
    for unit in drawn:
        commit(table, unit, drawn[unit])
        table.storage.delete([table.file("images", f"{unit}.parquet")])
    age(table, days=2, folder="segments")
    compacted(table)
    assert {"segments/open.parquet", "segments/dead.parquet"} <= files(table, "segments").keys()
    assert table.write_tombstone("dead")
    compacted(table)
    assert "segments/open.parquet" in files(table, "segments")
    assert "segments/dead.parquet" not in files(table, "segments")
    assert table.units().tombstones == {"dead"}


def test_a_unit_that_is_committed_at_this_moment_keeps_its_segments(tmp_path, table):
    drawn = unit_rows("x")
    plan(table, [plan_unit("x", drawn)], run_id="run-1", number=1)
    commit(table, "x", drawn)
    table.storage.delete([table.file("images", "x.parquet")])
    age(table, days=2)
    for seed in range(10):
        copy = str(shutil.copytree(table.uri, tmp_path / str(seed)))
        interleaved(
            lambda storage, copy=copy: compacted(TableStore(copy, storage)),
            lambda storage, copy=copy: commit(TableStore(copy, storage), "x", drawn),
            seed=seed,
        )
        assert is_sound(TableStore(copy, Storage()))
        assert "x" in TableStore(copy, Storage()).done_units()


# The command


def test_the_command_says_what_changed(table, capsys):
    assert run_job("compact", [table.uri]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "joined 4 units in 0 s: readers opened 8 files of 0.1 MB before, and 2 files of "
    )
    assert said.endswith("nothing to remove\n")
    assert run_job("compact", [table.uri]) == 0
    assert capsys.readouterr().out.startswith("nothing to join: readers open 2 files of ")


def test_the_module_runs_as_people_type_it(table):
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
def test_wrong_usage_is_one_line(capsys, words, message):
    assert run_job("compact", words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
