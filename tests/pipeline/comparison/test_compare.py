"""The command `compare`, on tables whose differences are known."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from compared_tables import Regions, Shape, write_drawn_table

from pipeline.cli.running import run_job
from pipeline.comparison.agreement import AGREEMENT
from pipeline.comparison.common_labels import common_labels
from pipeline.comparison.pairs import pairs_of_files, spread_rows
from pipeline.comparison.run import compare
from pipeline.comparison.settings import CompareSettings
from pipeline.storage import Storage

CAR, SKY = Shape("car", (10, 2, 20, 12)), Shape("sky", (0, 0, 8, 32))
IMAGES_A = {
    "equal.jpg": Regions(shapes=[SKY, CAR]),
    "relabelled.jpg": Regions(shapes=[SKY, CAR]),
    "lost.jpg": Regions(shapes=[SKY, CAR]),
    "gained.jpg": Regions(shapes=[SKY]),
    "empty.jpg": Regions(shapes=[]),
    "error.jpg": Regions(shapes=None),
    "only-a.jpg": Regions(shapes=[CAR]),
    "size.jpg": Regions(shapes=[CAR]),
}
IMAGES_B = {
    "equal.jpg": Regions(shapes=[CAR, SKY]),
    "relabelled.jpg": Regions(shapes=[SKY, Shape("boat", CAR.box)]),
    "lost.jpg": Regions(shapes=[SKY]),
    "gained.jpg": Regions(shapes=[SKY, CAR]),
    "empty.jpg": Regions(shapes=[]),
    "error.jpg": Regions(shapes=[SKY]),
    "only-b <b>.jpg": Regions(shapes=[CAR]),
    "size.jpg": Regions(shapes=[CAR], size=(40, 32)),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    first = write_drawn_table(folder / "a", IMAGES_A, labels=("sky", "car"))
    second = write_drawn_table(folder / "b", IMAGES_B, labels=("boat", "car", "sky"))
    return first, second


@pytest.fixture(scope="module")
def output(tables, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    stale = output / "agreement" / "00007.parquet"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier comparison")
    first, second = tables
    assert run_job("compare", [first.uri, second.uri, "--output", str(output), "--worst=3"]) == 0
    return output


def test_each_image_has_a_row_with_its_state_and_counts(output):
    (file,) = (output / "agreement").iterdir()
    table = pq.read_table(file)
    assert table.schema.equals(AGREEMENT)
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert list(rows) == sorted(rows)
    assert rows.keys() == {*IMAGES_A, *IMAGES_B}
    counts = ("kept", "gained", "lost", "relabelled")
    assert {
        name: [row[c] for c in counts] for name, row in rows.items() if row["state"] == "both"
    } == {
        "equal.jpg": [2, 0, 0, 0],
        "relabelled.jpg": [1, 0, 0, 1],
        "lost.jpg": [1, 0, 1, 0],
        "gained.jpg": [1, 1, 0, 0],
        "empty.jpg": [0, 0, 0, 0],
    }
    assert {name: row["state"] for name, row in rows.items() if row["state"] != "both"} == {
        "error.jpg": "error_a", "only-a.jpg": "only_a", "only-b <b>.jpg": "only_b",
        "size.jpg": "other_size",
    }  # fmt: skip


def test_numbers_are_those_of_the_pixels(output):
    (file,) = (output / "agreement").iterdir()
    rows = {row["image_id"]: row for row in pq.read_table(file).to_pylist()}
    sky, car = 8 * 32, 10 * 10
    assert rows["equal.jpg"]["disagreement"] == 0
    assert rows["relabelled.jpg"]["area_same_label"] == pytest.approx(sky / (sky + car))
    assert rows["relabelled.jpg"]["pq"] == pytest.approx(1 / 3)  # sky, car, boat
    change = ("change_from", "change_to", "change_share")
    assert [rows["relabelled.jpg"][c] for c in change] == [
        "car", "boat", pytest.approx(car / (sky + car))
    ]  # fmt: skip
    assert [rows["gained.jpg"][c] for c in change][:2] == [None, "car"]
    assert [rows["lost.jpg"][c] for c in change][:2] == ["car", None]
    assert [rows["empty.jpg"][c] for c in ("pq", "area_same_label", "disagreement")] == [None] * 3
    assert rows["only-a.jpg"]["kept"] is None


def test_the_sums_are_those_of_the_images(output):
    said = json.loads((output / "comparison.json").read_text())
    assert said["images"] == {
        "both": 5, "only_a": 1, "only_b": 1, "error_a": 1, "error_b": 0, "error_both": 0,
        "other_size": 1,
    }  # fmt: skip
    assert said["segments"] == {"kept": 5, "lost": 1, "gained": 1, "relabelled": 1}
    changes = {
        (each["from"], each["to"]): (each["segments"], each["pixels"]) for each in said["changes"]
    }
    assert changes == {("car", "boat"): (1, 100), ("car", None): (1, 100), (None, "car"): (1, 100)}
    assert said["labels_only_in_b"] == ["boat"]
    car = next(label for label in said["labels"] if label["label"] == "car")
    assert car["pq"] == pytest.approx(1 / ((3 + 2) / 2))
    assert [row["image_id"] for row in said["worst"]] == [
        "relabelled.jpg",
        "gained.jpg",
        "lost.jpg",
    ]


def test_the_report_shows_the_images_that_differ_most_and_no_markup_of_theirs(output):
    page = (output / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 9
    assert "images only in the first table: 1" in page
    assert "<b>" not in page
    assert "<script" not in page


def test_the_same_again_leaves_the_same(tables, output, tmp_path):
    first, second = tables
    before = {p.relative_to(output): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    (output / "comparison.json").unlink()  # as a crash before the end leaves it
    assert run_job("compare", [first.uri, second.uri, "--output", str(output), "--worst=3"]) == 0
    after = {p.relative_to(output): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    assert after == before


def test_a_run_that_fails_leaves_no_result_that_stands_for_it(
    tables, output, tmp_path, monkeypatch
):
    first, second = tables
    monkeypatch.setattr("pipeline.comparison.run.draw_triples", lambda *a, **k: 1 / 0)
    settings = CompareSettings(table_a=first.uri, table_b=second.uri, output=str(output))
    with pytest.raises(ZeroDivisionError):
        compare(first, second, settings=settings)
    assert not (output / "comparison.json").exists()


def bytes_below(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_crash_at_any_write_leaves_no_result_and_the_same_again_ends_whole(
    tables, tmp_path, monkeypatch
):
    first, second = tables
    monkeypatch.setattr("pipeline.comparison.run._ROWS_PER_FILE", 1)
    monkeypatch.setattr("pipeline.comparison.pairs._RANGE_BYTES", 1000)
    whole, broken = (
        CompareSettings(table_a=first.uri, table_b=second.uri, output=str(tmp_path / name), worst=1)
        for name in ("whole", "broken")
    )
    compare(first, second, settings=whole)
    write, left = Storage.write, -1

    def crashing(storage, uri, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise InterruptedError("killed")
        write(storage, uri, data)

    expected = bytes_below(tmp_path / "whole")
    for number in range(len(expected)):
        with monkeypatch.context() as patch:
            left = number
            patch.setattr(Storage, "write", crashing)
            with pytest.raises(InterruptedError):
                compare(first, second, settings=broken)
        assert not (tmp_path / "broken" / "comparison.json").exists()
    compare(first, second, settings=broken)
    assert len(expected) > 4
    assert bytes_below(tmp_path / "broken") == expected


KILLED = """
import os, signal, sys
import pipeline.comparison.pairs, pipeline.comparison.run
from pipeline.cli.running import run_job

pipeline.comparison.run._ROWS_PER_FILE, pipeline.comparison.pairs._RANGE_BYTES = 1, 1000
replace, count = os.replace, iter(range(100))

def replace_or_end(draft, target):
    if next(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(draft, target)

os.replace = replace_or_end
run_job("compare", sys.argv[1:])
"""


def test_a_comparison_that_is_killed_is_done_again_by_the_same_command(tables, tmp_path):
    words = [*(table.uri for table in tables), "--worst=1", "--output"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    ended = subprocess.run([sys.executable, "-c", KILLED, *words, str(out)], check=False)
    assert ended.returncode == -signal.SIGKILL
    left = bytes_below(out)
    assert len(left) == 4, "three files, and the draft of one"
    assert Path("comparison.json") not in left
    for folder in (out, whole):
        assert run_job("compare", [*words, str(folder)]) == 0
    assert bytes_below(out) == bytes_below(whole)


def test_tables_and_output_may_be_in_a_bucket(tables, tmp_path, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage().with_environment()
    places = [f"s3://test/compare/{side}" for side in "ab"]
    for table, place in zip(tables, places, strict=True):
        for name, data in bytes_below(Path(table.uri)).items():
            storage.write(f"{place}/{name}", data)
    for out, of in (("s3://test/compare/out", places), (str(tmp_path), [t.uri for t in tables])):
        assert run_job("compare", [*of, "--output", out, "--worst=3"]) == 0
    found, expected = (
        pq.read_table(io.BytesIO(storage.read(f"{out}/agreement/00000.parquet")))
        for out in ("s3://test/compare/out", str(tmp_path))
    )
    assert found == expected
    assert b"relabelled.jpg" in storage.read("s3://test/compare/out/report.html")


def test_ranges_of_ids_hold_whole_images_in_order(tables, tmp_path, monkeypatch):
    first, second = tables
    labels = common_labels(("sky", "car"), ("boat", "car", "sky"))

    def pairs(name):
        folder = tmp_path / name
        folder.mkdir()
        files = spread_rows(first, second, folder=str(folder))
        return list(pairs_of_files(files, labels=labels))

    whole = [p.image_ids.to_pylist() for p in pairs("whole")]
    monkeypatch.setattr("pipeline.comparison.pairs._RANGE_BYTES", 1000)
    cut = pairs("cut")
    assert len(cut) > 3
    assert [i for p in cut for i in p.image_ids.to_pylist()] == [i for ids in whole for i in ids]
    assert sum(len(p.image) for p in cut) == sum(
        len(each.shapes or ()) for part in (IMAGES_A, IMAGES_B) for each in part.values()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("dog",)}, "must have a label of the same name"),
        ({"images": {"other.jpg": Regions(shapes=[Shape("car", (0, 0, 2, 2))])}}, "same image_id"),
    ],
)
def test_tables_that_have_nothing_in_common_are_wrong_usage(
    tables, tmp_path, capsys, change, message
):
    images = change.get("images", {})
    other = write_drawn_table(tmp_path / "t", images, labels=change.get("labels", ("car",)))
    assert run_job("compare", [tables[0].uri, other.uri, "--output", str(tmp_path / "o")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o" / "comparison.json").exists()


def test_what_is_no_table_is_wrong_usage(tables, tmp_path, capsys):
    assert run_job("compare", [tables[0].uri, str(tmp_path), "--output", str(tmp_path)]) == 2
    assert "no segment table" in capsys.readouterr().err
