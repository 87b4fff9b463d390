"""A unit is done or given up, and never both, whoever comes first and wherever he ends."""

from pathlib import Path

import pytest
from hooked import Crash, crash_at, interleaved
from small_tables import SPEC, finish, settled

from pipeline.planning.planner import Unit
from pipeline.storage import Storage
from pipeline.table.store import TableStore, images, segments


@pytest.fixture
def unit(tmp_path: Path, table: TableStore) -> Unit:
    """A planned unit of two images."""
    for name in ("a.jpg", "b.jpg"):
        Path(tmp_path, "corpus").mkdir(exist_ok=True)
        Path(tmp_path, "corpus", name).write_bytes(name.encode())
    (unit,) = settled(str(tmp_path / "corpus"), table, "run-1").units
    return unit


def rows_in_sight(table: TableStore) -> tuple[int, int]:
    return images(table.uri).to_table().num_rows, segments(table.uri).to_table().num_rows


def test_what_is_given_up_is_never_done(table: TableStore, unit: Unit) -> None:
    assert table.write_tombstone(unit.unit_id)
    finish([unit], table)
    assert table.done_units() == set()
    assert table.units().tombstones == {unit.unit_id}
    assert table.segment_files() == {}
    assert rows_in_sight(table) == (0, 0)
    assert table.write_tombstone(unit.unit_id)


def test_what_is_done_is_not_given_up(table: TableStore, unit: Unit) -> None:
    finish([unit], table)
    assert not table.write_tombstone(unit.unit_id)
    assert table.done_units() == {unit.unit_id}
    assert table.units().tombstones == set()
    assert rows_in_sight(table) == (2, 2)


def test_a_run_that_ends_anywhere_in_giving_up_leaves_it_open_or_given_up(
    table: TableStore, unit: Unit
) -> None:
    seen_open = seen_over = 0
    for operation in range(100):
        storage, seen = crash_at(operation)
        one = TableStore(f"{table.uri}-{operation}", storage)
        Storage().write(one.file("_table.json"), SPEC.to_json().encode())
        try:
            one.write_tombstone(unit.unit_id)
        except Crash:
            after = TableStore(one.uri, Storage())
            is_over = after.units().tombstones == {unit.unit_id}
            seen_over, seen_open = seen_over + is_over, seen_open + (not is_over)
            finish([unit], after)
            assert after.done_units() == (set() if is_over else {unit.unit_id}), seen
            assert after.write_tombstone(unit.unit_id) == is_over
            assert rows_in_sight(after) == ((0, 0) if is_over else (2, 2))
        else:
            break
    assert seen_open
    assert seen_over


def test_of_one_who_commits_and_one_who_gives_up_at_once_one_succeeds(
    table: TableStore, unit: Unit
) -> None:
    found = set()
    for seed in range(30):
        place, gave_up = f"{table.uri}-{seed}", []
        Storage().write(f"{place}/_table.json", SPEC.to_json().encode())
        interleaved(
            lambda storage, place=place: finish([unit], TableStore(place, storage)),
            lambda storage, place=place, gave_up=gave_up: gave_up.append(
                TableStore(place, storage).write_tombstone(unit.unit_id)
            ),
            seed=seed,
        )
        after = TableStore(place, Storage())
        assert after.done_units() == (set() if gave_up == [True] else {unit.unit_id})
        assert rows_in_sight(after) == ((0, 0) if gave_up == [True] else (2, 2))
        found.add(gave_up[0])
    assert found == {False, True}
