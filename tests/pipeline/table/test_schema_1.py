"""Tables of schema 1, which have no second labels: written, continued, joined, checked, read."""

import dataclasses
import io

import drawn_tables
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_tables import assert_is_sound, commit, plan, plan_unit, report, unit_rows

from pipeline.labelling.model import _schema_version
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.storage import Storage
from pipeline.table.latest import latest_segments, rows_of_images
from pipeline.table.store import SECOND_LABEL, SEGMENTS, TableStore, segments

OLD = (
    "image_id", "segment_id", "label_id", "label", "is_thing", "score", "area", "bbox_x", "bbox_y",
    "bbox_w", "bbox_h", "height", "width", "rle",
)  # fmt: skip
"""The columns of schema 1."""


def with_second(rows: list[dict]) -> list[dict]:
    for row in rows:
        for segment in row["segments"]:
            other = (segment["label_id"] + 1) % 3
            segment |= {
                "second_label_id": other, "second_label": drawn_tables.SPEC.labels[other],
                "second_score": segment["score"] / 2,
            }  # fmt: skip
    return rows


@pytest.fixture(params=[1, 2])
def table(request, tmp_path, monkeypatch) -> TableStore:
    """A table of two units whose rows have second labels, as runs of today give them."""
    spec = dataclasses.replace(drawn_tables.SPEC, schema_version=request.param)
    monkeypatch.setattr(drawn_tables, "SPEC", spec)
    table = TableStore(str(tmp_path / "t"), Storage())
    table.create(spec)
    rows = {unit: with_second(unit_rows(unit)) for unit in "ab"}
    plan(table, [plan_unit(u, rows[u]) for u in rows], run_id="night-1", number=0)
    for unit in rows:
        commit(table, unit, rows[unit], spec=spec)
    report(table, [row for unit in rows.values() for row in unit], run_id="night-1", units=2)
    return table


def version(table: TableStore) -> int:
    return (table.spec() or {})["schema_version"]


def second_labels(rows: pa.Table) -> set:
    return set(rows["second_label"].to_pylist())


def test_files_have_the_columns_of_the_tables_schema(table):
    for unit in "ab":
        data = table.storage.read(table.file("segments", f"{unit}.parquet"))
        names = pq.ParquetFile(io.BytesIO(data)).schema_arrow.names
        assert tuple(names) == (OLD if version(table) == 1 else (*OLD, *SECOND_LABEL))


def test_every_reader_gives_all_columns(table):
    expected = {None} if version(table) == 1 else {"car", "sky", "tree"}
    every = segments(table.uri).to_table()
    latest = latest_segments(table.uri).read_all()
    ids = sorted(set(every["image_id"].to_pylist()))
    _, some = rows_of_images(table, ids)
    for rows in (every, latest, pa.Table.from_pylist(some, schema=SEGMENTS)):
        assert rows.schema.names == SEGMENTS.names
        assert second_labels(rows) == expected
        assert rows.num_rows == every.num_rows
    chosen = latest_segments(table.uri, columns=["label", "second_score"]).read_all()
    assert chosen.schema.names == ["label", "second_score"]


def test_joined_files_keep_the_schema_and_are_sound(table):
    assert_is_sound(table)
    before = latest_segments(table.uri).read_all().sort_by("image_id")
    compact(table, CompactSettings(table=table.uri))
    assert_is_sound(table)
    (file,) = table.units().files
    names = pq.ParquetFile(io.BytesIO(table.storage.read(table.file(file.segments)))).schema_arrow
    expected = OLD if version(table) == 1 else (*OLD, *SECOND_LABEL)
    assert tuple(names.names) == (*expected, "unit_id")
    assert latest_segments(table.uri).read_all().sort_by("image_id").equals(before)


def test_a_run_goes_on_in_the_schema_of_the_table(table):
    assert _schema_version(table.spec()) == version(table)
    table.check(dataclasses.replace(drawn_tables.SPEC, schema_version=version(table)))


def test_a_new_table_is_of_schema_2_and_unknown_ones_are_left_to_the_check():
    assert _schema_version(None) == 2
    assert _schema_version({"schema_version": 3}) == 2
