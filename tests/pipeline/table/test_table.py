"""Tables open as plain datasets of done units, and never mix what made them."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from as_files import encode_table
from specs import panoptic_spec

from pipeline.storage import join
from pipeline.table.store import (
    IMAGES,
    SEGMENTS,
    TableSpec,
    TableStore,
    decode_rle,
    images,
    segments,
)

SPEC = panoptic_spec("road", "sky")


@pytest.fixture
def table(place) -> TableStore:
    storage, root = place
    return TableStore(join(root, "table"), storage)


def write_raw_unit(
    table: TableStore, unit: str, *, parts: tuple[str, ...] = ("segments", "images")
):
    rows = {
        "segments": ([{"image_id": f"{unit}/0", "segment_id": 1, "label": "sky"}], SEGMENTS),
        "images": ([{"image_id": f"{unit}/0", "unit_id": unit, "status": "ok"}], IMAGES),
    }
    for part in parts:
        content, schema = rows[part]
        file = encode_table(pa.Table.from_pylist(content, schema=schema))
        table.storage.write(table.file(part, f"{unit}.parquet"), file)


def test_only_units_that_are_done_are_seen(table):
    table.create(SPEC)
    write_raw_unit(table, "a")
    write_raw_unit(table, "b", parts=("segments",))  # stopped between the two writes
    write_raw_unit(table, "c")
    table.storage.write(table.file("_staging", "d", "part.parquet"), b"no reader looks here")
    table.storage.write(table.file("images", ".e.parquet.0123.tmp"), b"half")
    assert table.done_units() == {"a", "c"}
    for dataset, schema in ((segments, SEGMENTS), (images, IMAGES)):
        opened = dataset(table.uri, storage=table.storage)
        assert opened.schema.equals(schema)
        content = opened.to_table()
        assert content.schema.equals(schema)
        assert content["image_id"].to_pylist() == ["a/0", "c/0"]


def test_a_table_without_units_has_the_columns_and_no_rows(table):
    table.create(SPEC)
    for dataset, schema in ((segments, SEGMENTS), (images, IMAGES)):
        content = dataset(table.uri, storage=table.storage).to_table()
        assert content.schema.equals(schema)
        assert content.num_rows == 0


def test_what_is_no_table_says_so(table):
    for dataset in (segments, images):
        with pytest.raises(FileNotFoundError, match=r"table.* is no segment table"):
            dataset(table.uri, storage=table.storage)


def test_a_misspelt_table_is_told_with_what_is_near(table, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/_table.json").write_text("{}")
    says = r"/lables is no segment table: there is nothing(.|\n)*, with labels"
    with pytest.raises(FileNotFoundError, match=says):
        segments(f"{tmp_path}/lables")
    with pytest.raises(ValueError, match=says):
        TableStore(f"{tmp_path}/lables", table.storage).existing_spec()


def test_datasets_filter_and_project_as_pyarrow_does(table):
    table.create(SPEC)
    write_raw_unit(table, "a")
    write_raw_unit(table, "b")
    dataset = segments(table.uri, storage=table.storage)
    found = dataset.to_table(columns=["image_id"], filter=pa.compute.field("image_id") == "b/0")
    assert found.to_pylist() == [{"image_id": "b/0"}]
    assert dataset.count_rows() == 2


def test_any_tool_reads_the_files_by_a_pattern(tmp_path):
    from pipeline.storage import Storage

    table = TableStore(str(tmp_path), Storage())
    table.create(SPEC)
    write_raw_unit(table, "a")
    write_raw_unit(table, "b")
    rows = duckdb.sql(
        f"SELECT label, count(*) FROM '{tmp_path}/segments/*.parquet' GROUP BY label"
    ).fetchall()
    assert rows == [("sky", 2)]


def test_the_columns_are_those_that_users_rely_on():
    assert str(SEGMENTS.field("rle").type) == "string"
    assert {f.name: str(f.type) for f in SEGMENTS} == {
        "image_id": "string", "segment_id": "int32", "label_id": "int32", "label": "string",
        "is_thing": "bool", "score": "float", "area": "int64", "bbox_x": "int32",
        "bbox_y": "int32", "bbox_w": "int32", "bbox_h": "int32", "height": "int32",
        "width": "int32", "rle": "string", "second_label_id": "int32", "second_label": "string",
        "second_score": "float",
    }  # fmt: skip
    assert {f.name: str(f.type) for f in IMAGES} == {
        "image_id": "string", "uri": "string", "member": "string", "etag": "string",
        "unit_id": "string", "position": "int64", "height": "int32", "width": "int32",
        "status": "string", "error_class": "string", "error_message": "string",
        "num_segments": "int32", "coverage": "float", "mean_score": "float",
    }  # fmt: skip


def test_an_rle_becomes_a_mask():
    mask = decode_rle("13", height=2, width=2)  # one zero, then three ones, column by column
    assert np.array_equal(mask, [[0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 0.7}, "threshold: the table has 0.5, this run 0.7"),
        ({"task": "instance"}, 'task: the table has "panoptic", this run "instance"'),
        ({"label_ids_to_fuse": (1,)}, r"label_ids_to_fuse: the table has \[\], this run \[1\]"),
        ({"precision": "bf16"}, 'precision: the table has "fp32", this run "bf16"'),
        ({"engine": "onnx"}, 'engine: the table has "torch", this run "onnx"'),
        ({"model_fingerprint": "e" * 64}, "model_fingerprint: the table has .*fff.*eee"),
        ({"labels": ("road", "tree")}, r"labels: .*sky.*this run .*tree"),
    ],
)
def test_other_settings_are_refused_with_the_difference(tmp_path, changes, words):
    from pipeline.storage import Storage

    table = TableStore(str(tmp_path), Storage())
    table.create(SPEC)
    table.check(SPEC)
    other = dataclasses.replace(SPEC, **changes)
    assert other.fingerprint != SPEC.fingerprint
    for action in (table.check, table.create):
        with pytest.raises(ValueError, match=words) as caught:
            action(other)
        message = str(caught.value)
        assert table.uri in message
        assert "\n" not in message
        assert len(message) < 500
        assert message.count("the table has") == 1  # what is equal is not shown


def test_a_table_that_names_no_engine_is_of_torch(tmp_path):
    """As all tables from before there was a choice."""
    from pipeline.storage import Storage

    assert "engine" not in json.loads(SPEC.to_json())
    assert TableSpec.of(json.loads(SPEC.to_json())).engine == "torch"
    by_onnx = dataclasses.replace(SPEC, engine="onnx")
    table = TableStore(str(tmp_path), Storage())
    table.create(by_onnx)
    assert TableSpec.of(table.spec()) == by_onnx
    with pytest.raises(ValueError, match='engine: the table has "onnx", this run "torch"'):
        table.check(SPEC)


def test_a_table_of_an_earlier_or_later_version_is_refused(tmp_path):
    from pipeline.storage import Storage

    table = TableStore(str(tmp_path), Storage())
    there = json.loads(SPEC.to_json())
    del there["decode"]
    there |= {"schema_version": 3, "new_field": 1}
    table.storage.write(table.file("_table.json"), json.dumps(there).encode())
    with pytest.raises(ValueError, match=r"decode: the table has null.*new_field.*schema_version"):
        table.check(SPEC)


def test_checking_writes_nothing_and_creating_twice_changes_nothing(table):
    table.check(SPEC)
    assert list(table.storage.files(table.uri)) == []
    table.create(SPEC)
    (before,) = table.storage.files(table.uri)
    table.create(SPEC)
    assert list(table.storage.files(table.uri)) == [before]
    assert json.loads(table.storage.read(before.uri)) == json.loads(SPEC.to_json())


def test_of_two_runs_with_different_settings_that_start_at_once_one_is_refused(table):
    specs = [dataclasses.replace(SPEC, threshold=number / 10) for number in range(6)]
    refused = []

    def create(spec: TableSpec) -> None:
        try:
            table.create(spec)
        except ValueError:
            refused.append(spec)

    with ThreadPoolExecutor(len(specs)) as pool:
        list(pool.map(create, specs))
    assert len(refused) == len(specs) - 1
    (kept,) = set(specs) - set(refused)
    table.check(kept)


def test_a_fingerprint_is_the_same_in_every_process_and_changes_with_any_field():
    values = {
        "schema_version": 3, "model_fingerprint": "x", "task": "semantic", "threshold": 0.1,
        "mask_threshold": None, "overlap_mask_area_threshold": 0.0, "label_ids_to_fuse": None,
        "resize_rule": "detectron2", "precision": "fp16", "decode": "fast", "labels": ("a",),
        "engine": "onnx",
    }  # fmt: skip
    assert values.keys() == {f.name for f in dataclasses.fields(TableSpec) if f.compare}
    prints = {
        dataclasses.replace(SPEC, **{name: value}).fingerprint for name, value in values.items()
    }
    assert len(prints | {SPEC.fingerprint}) == len(values) + 1
    # The fingerprint of tables of schema 1, after which their units are named.
    assert dataclasses.replace(SPEC, schema_version=1).fingerprint == "b828e5278a96278b"
    assert SPEC.fingerprint == "7ef25b84fa4f6be4"
