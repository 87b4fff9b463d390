"""A compaction that crashes or has others beside it loses and doubles nothing."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compaction import (
    add_units,
    compact_table,
    file_contents,
    make_older,
    rows_by_pattern,
    rows_seen,
    target_that_keeps_files,
)
from drawn_tables import assert_is_sound, commit, unit_rows
from hooked import Crash, crash_at, interleaved

from pipeline.storage import Storage
from pipeline.table.store import TableStore, segments

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
    compact_table(whole, **settings)
    end = file_contents(whole)
    for operation in range(0, 500, every):
        copy = shutil.copytree(base, folder / str(operation))
        table = TableStore(str(copy), Storage())
        storage, seen = crash_at(operation)
        try:
            compact_table(TableStore(table.uri, storage), **settings)
        except Crash:
            pass
        else:
            return len(seen)
        check(table)
        compact_table(table, **settings)
        check(table)
        assert file_contents(table) == end, seen[-1:]
        shutil.rmtree(copy)
    raise AssertionError("it has no end")


@pytest.mark.parametrize("every", EVERY)
def test_a_crash_at_any_operation_changes_nothing_and_the_next_ends_alike(tmp_path, table, every):
    expected = rows_seen(table)

    def check(copy: TableStore) -> None:
        assert rows_seen(copy) == expected
        assert rows_by_pattern(copy) == expected
        assert copy.done_units() == {"a", "b", "c", "d"}

    assert stopped(Path(table.uri), tmp_path, every=every, check=check) >= 15


@pytest.mark.parametrize("every", EVERY)
def test_a_crash_while_files_are_removed_loses_and_doubles_nothing(tmp_path, large, every):
    table = large
    compact_table(table)
    add_units(table, "e", "f", "g", "h", "i", number=1)
    make_older(table, days=3)
    opened = segments(table.uri).files
    expected = rows_seen(table)

    def check(copy: TableStore) -> None:
        assert rows_seen(copy) == expected
        assert copy.done_units() == set("abcdefghi")
        # Who opened the table before finds all files again.
        left = [name.replace(table.uri, copy.uri) for name in opened]
        assert all(Path(name).is_file() for name in left)

    target = target_that_keeps_files(table)
    operations = stopped(
        Path(table.uri),
        tmp_path,
        every=every,
        check=check,
        remove_units_after_days=1,
        target_bytes=target,
    )
    assert operations >= 30
    assert set(file_contents(TableStore(str(tmp_path / "whole"), Storage()), "images")) == {
        f"images/{unit}.parquet" for unit in "efghi"
    }


@pytest.mark.parametrize("remove", [None, 1])
@pytest.mark.parametrize("seeds", [3, pytest.param(40, marks=pytest.mark.faults)])
def test_compactions_readers_planners_and_runs_at_once_disturb_nobody(
    tmp_path, large, remove, seeds
):
    table, targets, images_each = large, (10**6, 10**7), 40
    if remove:
        compact_table(table)
        targets = (
            target_that_keeps_files(table),
            target_that_keeps_files(table) + 2,
        )  # one of them absorbs the file
        add_units(table, "e", "f", "g", "h", "i", number=1, count=images_each)
        make_older(table, days=3)
    base = table.done_units()
    certain = rows_seen(table)

    def whole_and_once(found: dict[str, Counter[str]]) -> None:
        for part in ("images", "segments"):
            assert certain[part] <= found[part]
        assert max(found["images"].values()) == 1
        assert sum(found["images"].values()) % images_each == 0

    for seed in range(seeds):
        copy = str(shutil.copytree(table.uri, tmp_path / str(seed)))

        def joining(target: int, *, copy: str = copy) -> Callable[[Storage], None]:
            settings = {"target_bytes": target, "remove_units_after_days": remove}
            return lambda storage: compact_table(TableStore(copy, storage), **settings)

        def reading(storage: Storage, *, copy: str = copy) -> None:
            for _ in range(3):
                whole_and_once(rows_seen(TableStore(copy, storage)))

        def planning(storage: Storage, *, copy: str = copy) -> None:
            for _ in range(3):
                assert base <= TableStore(copy, storage).done_units()

        def running(storage: Storage, *, copy: str = copy) -> None:
            commit(TableStore(copy, storage), "x", unit_rows("x", images=images_each))
            commit(TableStore(copy, storage), "a", unit_rows("a", images=images_each))

        interleaved(*map(joining, targets), reading, planning, running, seed=seed)
        end = TableStore(copy, Storage())
        whole_and_once(rows_seen(end))
        assert end.done_units() == base | {"x"}
        compact_table(end)
        whole_and_once(rows_seen(end))
        shutil.rmtree(copy)


def test_of_two_that_join_the_same_units_one_counts(table, capsys):
    for seed in range(6):
        interleaved(
            *(
                lambda storage, target=target: compact_table(
                    TableStore(table.uri, storage), target_bytes=target
                )
                for target in (10**6, 10**5)
            ),
            seed=seed,
        )
        said = capsys.readouterr().out
        assert said.count("joined 4 units") == 1
        assert said.count("another compaction finished first") + said.count("nothing to join") == 1
        assert_is_sound(table)
        shutil.rmtree(Path(table.uri, "_compacted"))
