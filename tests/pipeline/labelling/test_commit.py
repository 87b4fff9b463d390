"""A unit's rows become visible all at once and once, whatever crashes and whoever works beside."""

import dataclasses
import io
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hooked import Crash, HookedStorage, crash_at, interleaved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import panoptic_spec

from pipeline.labelling.commit import (
    RECEIPT,
    Stager,
    clear_leftovers,
    clear_staging,
    commit_unit,
)
from pipeline.labelling.rows import ROWS
from pipeline.storage import Storage, StorageFault
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, images, segments

SPEC = panoptic_spec("road", "sky")
UNIT = "unit-a"


def drawn_row(
    position: int, *, unit: str = UNIT, num_segments: int | None = None
) -> dict[str, Any]:
    """A row as the actor gives it: every third image without segments, every fifth in error."""
    num_segments = position % 3 if num_segments is None else num_segments
    failed = position % 5 == 4
    found = [
        {
            "segment_id": number + 1, "label_id": number % 2, "label": SPEC.labels[number % 2],
            "is_thing": number % 2 == 1, "score": 0.5 + number / 100, "area": 100 * position,
            "bbox_x": number, "bbox_y": 1, "bbox_w": 2, "bbox_h": 3, "rle": f"{position}-{number}",
        }
        for number in range(0 if failed else num_segments)
    ]  # fmt: skip
    return {
        "unit_id": unit, "kind": "image", "position": position, "image_id": f"{unit}/{position:04}",
        "uri": f"/data/{position}.jpg", "member": None, "etag": f"e{position}",
        "height": None if failed else 30, "width": None if failed else 40,
        "status": "error" if failed else "ok",
        "error_class": "NotAnImage" if failed else None,
        "error_message": "no image" if failed else None,
        "num_segments": len(found), "coverage": None if failed else 0.5,
        "mean_score": 0.5 if found else None, "segments": found, "bytes_read": 10,
    }  # fmt: skip


def end(count: int, *, unit: str = UNIT) -> dict[str, Any]:
    return {"unit_id": unit, "kind": "end", "position": count}


def rows_table(*found: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=ROWS)


def staged(table: TableStore, *blocks: pa.Table, run_id: str = "run") -> list[dict[str, Any]]:
    """The receipts of blocks, one after another."""
    stager = Stager(table=table, run_id=run_id)
    receipts = [stager(block) for block in blocks]
    assert all(each.schema.equals(RECEIPT) for each in receipts)
    return [receipt for each in receipts for receipt in each.to_pylist()]


def committed(
    table: TableStore, parts: Sequence[str | None], *, count: int, unit: str = UNIT
) -> None:
    names = [part for part in parts if part is not None]
    commit_unit(unit, parts=names, num_images=count, table=table, spec=SPEC)


def stage_and_commit(table: TableStore, *blocks: pa.Table, count: int, run_id: str = "run") -> None:
    """Everything that a run does with the rows of a unit."""
    parts = [receipt["part"] for receipt in staged(table, *blocks, run_id=run_id)]
    committed(table, parts, count=count)
    clear_staging(table, UNIT)


def table_contents(table: TableStore) -> dict[str, bytes]:
    """The table's files, without what made them."""
    return {
        file.uri.removeprefix(table.uri): table.storage.read(file.uri)
        for part in ("segments", "images", "_staging")
        for file in table.storage.files(table.file(part))
    }


def test_a_receipt_of_a_units_end_tells_what_its_archives_passed_over(tmp_path):
    passed = [{"reason": "hidden", "count": 3, "examples": ["a.tar, member ._x.jpg"]}]
    store = TableStore(str(tmp_path), Storage())
    first, last = staged(
        store, rows_table(drawn_row(0)), rows_table(drawn_row(1), end(2) | {"skipped": passed})
    )
    assert first["skipped"] is None
    assert last["skipped"] == passed


def expected_images(count: int) -> list[dict[str, Any]]:
    return [{name: drawn_row(n).get(name) for name in IMAGES.names} for n in range(count)]


def expected_segments(count: int) -> list[dict[str, Any]]:
    return [
        {name: segment.get(name, row.get(name)) for name in SEGMENTS.names}
        for row in map(drawn_row, range(count))
        for segment in row["segments"]
    ]


def is_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Equal, up to the rounding of float32."""
    return len(found) == len(expected) and all(
        a.keys() == b.keys() and all(a[k] == (pytest.approx(b[k]) if b[k] else b[k]) for k in a)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def table(tmp_path) -> TableStore:
    store = TableStore(str(tmp_path / "table"), Storage())
    store.create(SPEC)
    return store


def test_rows_come_out_as_they_went_in_by_position_then_segment(table):
    blocks = [
        rows_table(drawn_row(0), drawn_row(1)),
        rows_table(drawn_row(2), drawn_row(3), drawn_row(4), drawn_row(5), end(6)),
    ]
    stage_and_commit(table, *blocks, count=6)
    assert is_close(images(table.uri).to_table().to_pylist(), expected_images(6))
    assert is_close(segments(table.uri).to_table().to_pylist(), expected_segments(6))
    assert table_contents(table).keys() == {
        f"/{part}/{UNIT}.parquet" for part in ("segments", "images")
    }


def test_a_table_on_s3_is_the_same_as_on_a_disk(s3_storage, table):
    remote = TableStore("s3://test/commit/table", s3_storage)
    remote.create(SPEC)
    blocks = [rows_table(drawn_row(0), drawn_row(1)), rows_table(drawn_row(2), end(3))]
    stage_and_commit(table, *blocks, count=3)
    stage_and_commit(remote, *blocks, count=3)
    assert table_contents(remote) == table_contents(table)
    found = segments(remote.uri, storage=s3_storage).to_table()
    assert is_close(found.to_pylist(), expected_segments(3))


def test_a_receipt_says_what_was_staged_and_no_more(table):
    first, second = staged(
        table, rows_table(drawn_row(3), drawn_row(4)), rows_table(drawn_row(5), end(6))
    )
    assert (first["positions"], first["num_images"], first["fault"]) == ([3, 4], None, None)
    assert (first["bytes_read"], first["num_segments"]) == (20, 0)
    assert first["errors"] == [
        {
            "position": 4,
            "image_id": f"{UNIT}/0004",
            "error_class": "NotAnImage",
            "error_message": "no image",
        }
    ]
    assert (second["positions"], second["num_images"], second["num_segments"]) == ([5], 6, 2)
    assert second["errors"] == []
    assert {first["part"], second["part"]} == {
        f"{table.uri}{name}" for name in table_contents(table) if name.startswith("/_staging/")
    }


def test_blocks_that_hold_rows_of_two_units_give_a_receipt_for_each(table):
    block = rows_table(drawn_row(7), end(8), drawn_row(0, unit="unit-b"), end(1, unit="unit-b"))
    first, second = staged(table, block)
    assert (first["unit_id"], first["positions"], first["num_images"]) == (UNIT, [7], 8)
    assert (second["unit_id"], second["positions"], second["num_images"]) == ("unit-b", [0], 1)
    committed(table, [second["part"]], count=1, unit="unit-b")
    assert images(table.uri).to_table()["image_id"].to_pylist() == ["unit-b/0000"]


def test_an_end_alone_stages_nothing(table):
    (receipt,) = staged(table, rows_table(end(6)))
    assert (receipt["part"], receipt["positions"], receipt["num_images"]) == (None, [], 6)
    assert table_contents(table) == {}


def test_a_fault_of_reading_is_passed_on(table):
    fault = {"unit_id": UNIT, "kind": "fault", "error_message": "StorageFault: away"}
    (receipt,) = staged(table, rows_table(fault))
    assert (receipt["fault"], receipt["part"]) == ("StorageFault: away", None)


def test_a_fault_of_staging_is_told_and_nothing_counts(tmp_path):
    class Full(Storage):
        def write(self, uri: str, data: bytes) -> None:
            raise StorageFault(f"write {uri}: no space left")

    table = TableStore(str(tmp_path), Full())
    (receipt,) = staged(table, rows_table(drawn_row(0), end(1)))
    assert "no space left" in receipt["fault"]
    assert (receipt["positions"], receipt["part"], receipt["num_images"]) == ([], None, None)


def test_a_unit_without_images_is_done_with_no_rows(table):
    stage_and_commit(table, rows_table(end(0)), count=0)
    assert table.done_units() == {UNIT}
    for dataset, schema in ((images, IMAGES), (segments, SEGMENTS)):
        found = dataset(table.uri).to_table()
        assert (found.num_rows, found.schema) == (0, schema)


def test_a_unit_of_images_in_error_has_rows_and_no_segments(table):
    stage_and_commit(table, rows_table(dict(drawn_row(4), position=0), end(1)), count=1)
    assert images(table.uri).to_table()["status"].to_pylist() == ["error"]
    assert segments(table.uri).count_rows() == 0


@given(
    cuts=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 8)), max_size=6),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_doubled_overlapping_and_out_of_order_give_the_same_files(table, cuts, order):
    count = 12
    stage_and_commit(table, rows_table(*map(drawn_row, range(count)), end(count)), count=count)
    before = table_contents(table)
    ranges = [*((start, min(count, start + size)) for start, size in cuts), (0, 5), (5, count)]
    blocks = [rows_table(*map(drawn_row, range(*each))) for each in ranges]
    order.shuffle(blocks)
    receipts = staged(table, *blocks, run_id="again")
    parts = [receipt["part"] for receipt in receipts]
    committed(table, [*parts, parts[0]], count=count)
    clear_staging(table, UNIT)
    assert table_contents(table) == before


@pytest.mark.parametrize("missing", [0, 1])
def test_without_all_its_rows_a_unit_stays_undone(table, missing):
    receipts = staged(
        table, rows_table(drawn_row(0), drawn_row(1)), rows_table(drawn_row(2), end(3))
    )
    parts = [receipt["part"] for receipt in receipts]
    with pytest.raises(StorageFault, match=f"unit {UNIT}: .* of 3"):
        committed(table, parts[:missing] + parts[missing + 1 :], count=3)
    table.storage.delete([parts[missing]])
    with pytest.raises(StorageFault, match=f"unit {UNIT}: its staged part .* is gone"):
        committed(table, parts, count=3)
    assert table.done_units() == set()
    assert not [name for name in table_contents(table) if not name.startswith("/_staging/")]


def test_with_rows_too_many_a_unit_stays_undone(table):
    receipts = staged(table, rows_table(drawn_row(0), drawn_row(1), drawn_row(2)))
    with pytest.raises(StorageFault, match="hold 3 images of 2"):
        committed(table, [receipts[0]["part"]], count=2)
    assert table.done_units() == set()


def test_a_crash_at_any_operation_leaves_no_half_and_the_same_again_ends_whole(tmp_path):
    """Staging, committing and clearing are stopped before each of their operations in turn."""
    blocks = [
        rows_table(drawn_row(0), drawn_row(1)),
        rows_table(drawn_row(2), drawn_row(3)),
        rows_table(drawn_row(4), end(5)),
    ]
    whole = TableStore(str(tmp_path / "whole"), Storage())
    whole.create(SPEC)
    stage_and_commit(whole, *blocks, count=5)
    complete = table_contents(whole)
    crashes = 0
    for operation in range(100):
        table = TableStore(str(tmp_path / str(operation)), Storage())
        table.create(SPEC)
        storage, seen = crash_at(operation)
        try:
            stage_and_commit(TableStore(table.uri, storage), *blocks, count=5, run_id="first")
        except Crash:
            crashes += 1
        visible = images(table.uri).to_table()["position"].to_pylist()
        assert visible in ([], [0, 1, 2, 3, 4]), seen
        assert segments(table.uri).to_table().num_rows == (
            len(expected_segments(5)) if visible else 0
        )
        if UNIT not in table.done_units():  # else the next run would not plan it
            stage_and_commit(table, *blocks, count=5, run_id="second")
        clear_leftovers(table)
        assert table_contents(table) == complete, seen
        if len(seen) < operation:
            break
    assert crashes == len(seen) >= 10


def test_the_write_that_makes_a_unit_visible_is_the_last_one(tmp_path):
    storage, seen = crash_at(10**6)
    table = TableStore(str(tmp_path), storage)
    stage_and_commit(table, rows_table(drawn_row(0), end(1)), count=1)
    writes = [uri.removeprefix(table.uri) for name, uri in seen if name == "write"]
    assert writes[1:] == [f"/segments/{UNIT}.parquet", f"/images/{UNIT}.parquet"]


def test_two_runs_that_do_one_unit_at_once_leave_it_once(tmp_path):
    blocks = [rows_table(drawn_row(0), drawn_row(1)), rows_table(drawn_row(2), end(3))]
    for seed in range(25):
        table = TableStore(str(tmp_path / str(seed)), Storage())
        table.create(SPEC)

        def run(name: str, *, table: TableStore = table):
            def program(storage: Storage) -> bool:
                try:
                    stage_and_commit(TableStore(table.uri, storage), *blocks, count=3, run_id=name)
                except StorageFault:
                    return False  # the other cleared its parts: it will plan the unit again
                return True

            return program

        done = interleaved(run("one"), run("two"), seed=seed)
        assert any(done)
        assert is_close(images(table.uri).to_table().to_pylist(), expected_images(3)), seed
        assert is_close(segments(table.uri).to_table().to_pylist(), expected_segments(3)), seed
        clear_leftovers(table)
        assert not [name for name in table_contents(table) if name.startswith("/_staging/")]


def other_image(position: int) -> dict[str, Any]:
    """The row of an attempt that finds other segments and has other errors than `image`."""
    found = drawn_row(position + 1)
    own = {name: drawn_row(position)[name] for name in ("position", "image_id", "uri", "etag")}
    return found | own


def labelled_until(operation: str, table: TableStore, *blocks: pa.Table, count: int) -> None:
    """Labels as a run that dies before its first operation of that kind on `images`."""

    def hook(name: str, uri: str) -> None:
        if name == operation and "/images/" in uri:
            raise Crash

    with pytest.raises(Crash):
        stage_and_commit(
            TableStore(table.uri, HookedStorage(hook)), *blocks, count=count, run_id="died"
        )


def test_a_unit_whose_run_died_between_its_files_is_finished_as_that_run_had_it(tmp_path):
    for stored, again in ((drawn_row, other_image), (other_image, drawn_row)):
        table, whole = (
            TableStore(str(tmp_path / stored.__name__ / name), Storage()) for name in ("a", "b")
        )
        for store in (table, whole):
            store.create(SPEC)
        labelled_until("write", table, rows_table(*map(stored, range(9)), end(9)), count=9)
        assert table.done_units() == set()
        parts = [r["part"] for r in staged(table, rows_table(*map(again, range(9)), end(9)))]
        counts = commit_unit(UNIT, parts=parts, num_images=9, table=table, spec=SPEC)
        clear_staging(table, UNIT)
        clear_leftovers(table)
        stage_and_commit(whole, rows_table(*map(stored, range(9)), end(9)), count=9)
        assert table_contents(table) == table_contents(whole)
        assert counts.images == 9
        assert counts.segments == segments(table.uri).to_table().num_rows
        assert counts.errors == {"NotAnImage": 2 if stored is other_image else 1}


@pytest.mark.parametrize("there", ["half a file", "a file of an older version"])
def test_segments_that_cannot_be_finished_are_written_anew(there, table):
    labelled_until("write", table, rows_table(*map(other_image, range(4)), end(4)), count=4)
    place = table.file("segments", f"{UNIT}.parquet")
    if there == "half a file":
        table.storage.write(place, table.storage.read(place)[:-100])
    else:
        old = pq.read_table(io.BytesIO(table.storage.read(place)))
        buffer = io.BytesIO()
        pq.write_table(old, buffer)
        table.storage.write(place, buffer.getvalue())
    stage_and_commit(table, rows_table(*map(drawn_row, range(4)), end(4)), count=4)
    assert is_close(images(table.uri).to_table().to_pylist(), expected_images(4))
    assert is_close(segments(table.uri).to_table().to_pylist(), expected_segments(4))


def test_what_an_attempt_decides_takes_little_room_in_a_footer(table):
    many = [drawn_row(n, num_segments=13) for n in range(1000)]
    stage_and_commit(table, rows_table(*many, end(1000)), count=1000)
    data = table.storage.read(table.file("segments", f"{UNIT}.parquet"))
    footer = int.from_bytes(data[-8:-4], "little")
    assert footer < 16_000


def test_doing_a_unit_twice_leaves_the_same_bytes(tmp_path, table):
    blocks = [rows_table(drawn_row(0), drawn_row(1)), rows_table(drawn_row(2), end(3))]
    stage_and_commit(table, *blocks, count=3, run_id="monday")
    first = table_contents(table)
    time.sleep(0.01)
    stage_and_commit(
        table, rows_table(*map(drawn_row, range(3)), end(3)), count=3, run_id="tuesday"
    )
    assert table_contents(table) == first


def test_files_are_compressed_with_statistics_and_pieces_that_let_a_reader_prune(table):
    many = [drawn_row(n, num_segments=3) for n in range(0, 40_000, 5)]
    numbered = [dict(row, position=n) for n, row in enumerate(many)]
    stage_and_commit(table, rows_table(*numbered, end(len(numbered))), count=len(numbered))
    for part in ("segments", "images"):
        data = table.storage.read(table.file(part, f"{UNIT}.parquet"))
        metadata = pq.ParquetFile(io.BytesIO(data)).metadata
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        assert all(0 < group.num_rows <= 10_000 for group in groups)
        assert len(groups) == (3 if part == "segments" else 1)
        for group in groups:
            for index in range(group.num_columns):
                column = group.column(index)
                assert column.compression == "ZSTD"
                assert column.is_stats_set == (column.path_in_schema != "rle")
        ids = [groups[n].column(0).statistics for n in range(len(groups))]
        assert [s.min for s in ids] == sorted(s.min for s in ids)


def test_files_say_what_made_them(table):
    stage_and_commit(table, rows_table(drawn_row(0), end(1)), count=1)
    for part in ("segments", "images"):
        data = table.storage.read(table.file(part, f"{UNIT}.parquet"))
        found = pq.ParquetFile(io.BytesIO(data)).schema_arrow.metadata
        assert found[b"schema_version"] == b"2"
        assert found[b"model_fingerprint"] == b"f" * 64
        assert json.loads(found[b"labels"]) == ["road", "sky"]
        assert found[b"unit_id"] == UNIT.encode()
        assert found[b"table_fingerprint"] == SPEC.fingerprint.encode()


def test_what_crashed_runs_left_is_cleared_and_what_others_work_on_is_not(table):
    stage_and_commit(table, rows_table(drawn_row(0), end(1)), count=1)
    staged(table, rows_table(drawn_row(0)), run_id="crashed-after-the-commit")
    old = staged(table, rows_table(drawn_row(0, unit="unit-old")))[0]["part"]
    staged(table, rows_table(drawn_row(0, unit="unit-young")))
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    clear_leftovers(table)
    (left,) = [name for name in table_contents(table) if name.startswith("/_staging/")]
    assert left.startswith("/_staging/unit-young/")


def test_another_spec_makes_other_metadata_and_the_same_rows(tmp_path, table):
    other = TableStore(str(tmp_path / "other"), Storage())
    for store, spec in ((table, SPEC), (other, dataclasses.replace(SPEC, threshold=0.9))):
        parts = [r["part"] for r in staged(store, rows_table(drawn_row(0), drawn_row(1), end(2)))]
        commit_unit(UNIT, parts=parts, num_images=2, table=store, spec=spec)
    read = [pq.read_table(store.file("images", f"{UNIT}.parquet")) for store in (table, other)]
    assert read[0].equals(read[1])
    assert read[0].schema.metadata != read[1].schema.metadata
