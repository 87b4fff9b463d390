"""Whatever is wrong in a table is found out, named with its place, and nothing else is."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn_tables import (
    commit,
    draw_table,
    image_row,
    plan,
    plan_unit,
    report,
    rewrite,
    unit_rows,
)

import pipeline
from pipeline.cli.running import run_job
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.maintenance.verify.findings import RULES
from pipeline.maintenance.verify.run import as_json, as_text, exit_code
from pipeline.maintenance.verify.tables import VerifyReport, verify_table
from pipeline.reviews.rules import REVIEW_RULES
from pipeline.storage import Storage, join
from pipeline.table.store import TableStore, images


def verify_sampled(table: TableStore, *, sample: float = 1.0) -> VerifyReport:
    return verify_table(table, sample=sample, num_threads=2, most_examples=5)


def broken_rules(table: TableStore) -> dict[str, int]:
    return verify_sampled(table).findings.counts


@pytest.fixture
def table(tmp_path) -> TableStore:
    return draw_table(str(tmp_path / "table"))


# Sound tables


def test_a_sound_table_is_said_to_be_sound(place):
    storage, root = place
    verdict = verify_sampled(draw_table(join(root, "table"), storage=storage))
    assert verdict.findings.counts == {}
    assert (verdict.num_images, verdict.num_units) == (18, 3)
    assert verdict.num_rles == verdict.num_segments > 20
    assert (verdict.undone, verdict.notices, exit_code(verdict)) == ((), (), 0)


def test_what_other_programs_keep_beside_the_units_disturbs_nobody(table):
    data = Path(next(iter(table.unit_files("images").values())).uri).read_bytes()
    before = table.units()
    for name in (
        "_delta_log/00000000000000000010.checkpoint.parquet", "_delta_log/_last_checkpoint",
        "metadata/snap-1.avro", "metadata/stats.parquet", "_metadata.parquet", ".hidden.parquet",
    ):  # fmt: skip
        for part in ("images", "segments"):
            table.storage.write(table.file(part, name), data)
    assert table.units() == before
    assert broken_rules(table) == {}
    rows = images(table.uri).to_table()
    compact(table, CompactSettings(table=table.uri))
    compacted = images(table.uri).to_table()
    assert compacted.sort_by("image_id").equals(rows.sort_by("image_id"))
    assert broken_rules(table) == {}
    assert table.storage.file(table.file("images", "_delta_log/_last_checkpoint")) is not None


def test_a_table_without_units_is_sound(tmp_path):
    verdict = verify_sampled(draw_table(str(tmp_path), units=()))
    assert (verdict.num_images, verdict.findings.counts) == (0, {})


def test_a_changed_image_and_one_tried_again_are_there_twice_by_right(table):
    changed = [image_row(0, unit="d", image_id="a/0000.jpg", etag="another")]
    again = [image_row(0, unit="e", image_id="a/0004.jpg")]
    plan(table, [plan_unit("d", changed)], run_id="night-2", number=1)
    plan(table, [plan_unit("e", again, again=1)], run_id="night-3", number=2)
    commit(table, "d", changed)
    commit(table, "e", again)
    assert broken_rules(table) == {}


def test_what_a_run_left_in_the_middle_of_a_commit_is_a_notice(table):
    table.storage.delete([table.file("images", "c.parquet")])
    table.storage.delete([table.file("_runs", "night-1", "report.json")])
    staged, draft = table.file("_staging", "c", "part"), table.file("images", f".x.{'0' * 32}.tmp")
    for name in (staged, draft):
        table.storage.write(name, b"half")
    verdict = verify_sampled(table)
    assert len(verdict.notices) == 1
    assert "files in segments/ of units that are not done: 1," in verdict.notices[0]
    for name in (staged, draft):
        os.utime(name, (time.time() - 2 * 24 * 3600,) * 2)
    verdict = verify_sampled(table)
    assert verdict.findings.counts == {}
    assert [notice.split()[0] for notice in verdict.notices] == ["staged", "drafts", "files"]
    assert verdict.undone == ("c",)
    assert exit_code(verdict) == 3
    assert "planned units that are not done: 1, for example c;" in as_text(verdict)


def test_a_unit_that_planning_gave_up_is_not_called_undone(table):
    rows = unit_rows("d", images=2)
    plan(table, [plan_unit("d", rows)], run_id="night-2", number=1)
    assert verify_sampled(table).undone == ("d",)
    changed = [rows[0] | {"etag": "another", "unit_id": "e"}]
    plan(table, [plan_unit("e", changed)], run_id="night-3", number=2)
    commit(table, "e", changed)
    verdict = verify_sampled(table)
    assert (verdict.undone, verdict.findings.counts) == ((), {})


# Damaged rows

SEGMENTS, IMAGES = "segments/b.parquet", "images/b.parquet"
DAMAGES = [
    (SEGMENTS, lambda rows: rows[1].update(area=rows[1]["area"] + 1), {"area", "coverage"}),
    (SEGMENTS, lambda rows: rows[1].update(bbox_w=rows[1]["bbox_w"] + 1), {"box"}),
    (SEGMENTS, lambda rows: rows[1].update(rle=rows[1]["rle"][:-1]), {"rle"}),
    (SEGMENTS, lambda rows: rows[1].update(rle=None), {"rle"}),
    (SEGMENTS, lambda rows: rows[1].update(rle="\x7f\u20ac"), {"rle"}),
    (SEGMENTS, lambda rows: rows[1].update(height=rows[1]["height"] + 1), {"size", "rle"}),
    (SEGMENTS, lambda rows: rows[1].update(segment_id=7), {"segment_id", "order"}),
    (SEGMENTS, lambda rows: rows[0].update(score=1.25), {"score", "mean_score"}),
    (SEGMENTS, lambda rows: rows[0].update(score=None), {"score", "mean_score"}),
    (SEGMENTS, lambda rows: rows[0].update(label="tree"), {"label"}),
    (SEGMENTS, lambda rows: rows[0].update(label_id=3), {"label"}),
    (SEGMENTS, lambda rows: rows[0].update(
        second_label_id=0, second_label="sky", second_score=0.1), {"second_label"}),
    (SEGMENTS, lambda rows: rows[0].update(second_score=0.1), {"second_label"}),
    (SEGMENTS, lambda rows: rows[0].update(
        second_label_id=rows[0]["label_id"], second_label=rows[0]["label"], second_score=0.1),
     {"second_label"}),
    (SEGMENTS, lambda rows: rows[0].update(is_thing=True), {"label"}),
    (SEGMENTS, lambda rows: rows[0].update(image_id="b/0004.jpg"),
     {"belongs", "num_segments", "coverage", "mean_score", "segment_id", "order", "size"}),
    (SEGMENTS, lambda rows: rows[-1].update(image_id="elsewhere"),
     {"belongs", "num_segments", "coverage", "mean_score", "order"}),
    (SEGMENTS, lambda rows: rows.reverse(), {"order"}),
    (SEGMENTS, lambda rows: rows.pop(), {"num_segments", "coverage", "mean_score", "report"}),
    (SEGMENTS, lambda rows: rows.append(rows[-1] | {"segment_id": rows[-1]["segment_id"] + 1}),
     {"num_segments", "coverage", "mean_score", "overlap", "report"}),
    (SEGMENTS, lambda rows: rows[1].update(
        {k: rows[0][k] for k in ("rle", "area", "bbox_x", "bbox_y", "bbox_w", "bbox_h")}),
     {"overlap", "coverage"}),
    (IMAGES, lambda rows: rows[0].update(num_segments=9), {"num_segments"}),
    (IMAGES, lambda rows: rows[0].update(coverage=0.01), {"coverage"}),
    (IMAGES, lambda rows: rows[0].update(coverage=None), {"coverage"}),
    (IMAGES, lambda rows: rows[4].update(coverage=0.0), {"coverage"}),
    (IMAGES, lambda rows: rows[0].update(mean_score=0.51), {"mean_score"}),
    (IMAGES, lambda rows: rows[2].update(mean_score=0.0), {"mean_score"}),
    (IMAGES, lambda rows: rows[2].update(position=7), {"position"}),
    (IMAGES, lambda rows: rows[2].update(unit_id="c"), {"position"}),
    (IMAGES, lambda rows: rows[2].update(status="odd"), {"status", "coverage", "report"}),
    (IMAGES, lambda rows: rows[2].update(height=None), {"status"}),
    (IMAGES, lambda rows: rows[2].update(error_class="TooLarge"), {"status"}),
    (IMAGES, lambda rows: rows[4].update(error_message=None), {"status"}),
    (IMAGES, lambda rows: rows[0].update(width=rows[0]["width"] + 1), {"size", "coverage"}),
    (IMAGES, lambda rows: rows.pop(), {"missing", "belongs", "report", "order"}),
    (IMAGES, lambda rows: rows[2].update(uri="/elsewhere.jpg"), {"missing", "source"}),
    (IMAGES, lambda rows: rows[2].update(etag="replaced"), {"missing", "source"}),
    (IMAGES, lambda rows: rows.insert(3, rows[2]),
     {"twice", "position", "missing", "report"}),
    (IMAGES, lambda rows: rows[2].update(image_id="a/0000.jpg", etag="e-a/0000.jpg"),
     {"twice", "missing", "source"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "rules"), DAMAGES)
def test_wrong_rows_are_found_under_the_rules_they_break(table, name, change, rules):
    rewrite(table, name, change)
    verdict = verify_sampled(table)
    assert verdict.findings.counts.keys() == rules
    assert exit_code(verdict) == 1
    shown = [example for rule in rules for example in verdict.findings.examples[rule]]
    assert all(example.found for example in shown)
    assert any(example.place.startswith((IMAGES, SEGMENTS)) for example in shown)


def test_the_line_names_file_image_and_segment_and_both_values(table):
    rewrite(table, SEGMENTS, lambda rows: rows[1].update(area=7000))
    text = as_text(verify_sampled(table))
    assert "1 × area: the area is that of the rle's mask, and not 0\n" in text
    place = r"  segments/b\.parquet, image b/0000\.jpg, segment 2: area is 7000, the mask has \d+ "
    assert re.search(place, text)
    assert re.search(
        r"\n18 images, \d+ segments, 3 units: not sound, findings: 2, broken rules: 2 \(", text
    )


def test_many_findings_are_counted_and_some_shown(table):
    rewrite(table, SEGMENTS, lambda rows: [row.update(bbox_x=1000) for row in rows])
    said = as_json(verify_sampled(table))["findings"]["box"]
    assert said["count"] > 5 == len(said["examples"])


def test_instances_may_overlap(tmp_path, monkeypatch):
    table = draw_table(str(tmp_path))
    spec = json.loads(table.storage.read(table.file("_table.json")))
    table.storage.write(table.file("_table.json"), json.dumps(spec | {"task": "instance"}).encode())
    shape = ("rle", "area", "bbox_x", "bbox_y", "bbox_w", "bbox_h")
    rewrite(table, SEGMENTS, lambda rows: rows[1].update({k: rows[0][k] for k in shape}))
    assert "overlap" not in broken_rules(table)


def test_a_sample_of_the_run_lengths_is_the_same_each_time(table):
    counts = {verify_sampled(table, sample=0.4).num_rles for _ in range(3)}
    assert len(counts) == 1
    assert 0 < counts.pop() < verify_sampled(table).num_rles


# Damaged files, plans and reports


@pytest.mark.parametrize("name", [SEGMENTS, IMAGES])
def test_files_that_cannot_be_read_are_named(table, name):
    data = table.storage.read(table.file(name))
    for damaged in (b"", data[:-9], data[: len(data) // 2], b"no Parquet at all"):
        table.storage.write(table.file(name), damaged)
        verdict = verify_sampled(table)
        assert verdict.findings.counts == {"file": 1}
        assert verdict.findings.examples["file"][0].place == name
        assert verdict.num_units == 2


def test_a_file_with_other_columns_is_named(table):
    rewrite(table, SEGMENTS, lambda rows: None)
    import pyarrow.parquet as pq

    path = table.file(SEGMENTS)
    pq.write_table(pq.read_table(path).drop_columns(["score"]), path)
    (example,) = verify_sampled(table).findings.examples["file"]
    assert (example.place, "score" in example.found) == (SEGMENTS, True)


def test_a_unit_that_lost_its_segments_is_named(table):
    table.storage.delete([table.file(SEGMENTS)])
    assert broken_rules(table) == {"pair": 1}


@pytest.mark.parametrize(
    "metadata", [{"unit_id": "c"}, {"table_fingerprint": "0"}, {"labels": "[]"}]
)
def test_files_of_another_unit_or_table_are_named(table, metadata):
    rewrite(table, IMAGES, lambda rows: None, **metadata)
    assert broken_rules(table) == {"metadata": 1}


def test_a_unit_that_nobody_planned_is_named(table):
    commit(table, "d", unit_rows("d"))
    verdict = verify_sampled(table)
    assert verdict.findings.counts == {"planned": 1}
    assert verdict.findings.examples["planned"][0].place == "images/d.parquet"


def test_images_that_two_units_hold_are_named(table):
    rows = [image_row(n, unit="d", image_id=f"a/{n:04}.jpg") for n in range(2)]
    plan(table, [plan_unit("d", rows)], run_id="night-2", number=1)
    commit(table, "d", rows)
    verdict = verify_sampled(table)
    assert verdict.findings.counts == {"twice": 2}
    names = {example.place for example in verdict.findings.examples["twice"]}
    assert names == {f"images/d.parquet, image a/{n:04}.jpg" for n in range(2)}


def test_an_archive_cut_short_may_have_fewer_images_than_planned_if_it_says_so(table):
    rows = [
        image_row(n, unit="d") | {"uri": "/data/d.tar", "etag": "t"} for n in range(2)
    ]  # fmt: skip
    import dataclasses

    unit = plan_unit("d", rows[:1])
    source = dataclasses.replace(unit.sources[0], kind="tar", num_images=9)
    plan(table, [dataclasses.replace(unit, sources=[source])], run_id="night-2", number=1)
    commit(table, "d", rows)
    assert broken_rules(table) == {"missing": 1}
    damaged = image_row(4, unit="d") | {
        "uri": "/data/d.tar", "etag": "t", "error_class": "TruncatedArchive", "position": 2,
    }  # fmt: skip
    table.storage.delete([table.file("images", "d.parquet")])
    commit(table, "d", [*rows, damaged])
    assert broken_rules(table) == {}


@pytest.mark.parametrize(
    "said",
    [
        {"images": 19}, {"images": 17}, {"images_in_error": 2}, {"segments": 5000},
        {"units_planned": 4}, {"units_committed": 4}, {"errors": {"NotAnImage": 9}},
    ],
)  # fmt: skip
def test_a_report_that_says_something_else_is_named(table, said):
    name = table.file("_runs", "night-1", "report.json")
    there = json.loads(table.storage.read(name))
    table.storage.write(name, json.dumps(there | said).encode())
    verdict = verify_sampled(table)
    assert verdict.findings.counts.keys() == {"report"}
    assert str(next(iter(said.values()))) in verdict.findings.examples["report"][0].found or (
        "errors" in said
    )


def test_a_report_of_a_run_that_did_a_part_says_no_more_than_there_is(table):
    rows = unit_rows("d")
    plan(table, [plan_unit("d", rows), plan_unit("e", unit_rows("e"))], run_id="2", number=1)
    commit(table, "d", rows)
    report(table, rows, run_id="2", units=1)
    name = table.file("_runs", "2", "report.json")
    said = json.loads(table.storage.read(name)) | {"units_planned": 2}
    table.storage.write(name, json.dumps(said).encode())
    assert broken_rules(table) == {}
    table.storage.write(name, json.dumps(said | {"images": 7}).encode())
    assert broken_rules(table) == {"report": 1}


@pytest.mark.parametrize("damaged", [None, b"", b"no Parquet"])
def test_a_plan_that_cannot_be_read_is_named(table, damaged):
    name = table.file("_runs", "night-1", "plan.parquet")
    table.storage.delete([name])
    if damaged is not None:
        table.storage.write(name, damaged)
    counts = broken_rules(table)
    assert counts["file"] == 1
    assert counts["planned"] == 3  # without its plan, nobody knows the next run's


def test_a_report_that_cannot_be_read_is_named(table):
    table.storage.write(table.file("_runs", "night-1", "report.json"), b"{")
    assert broken_rules(table) == {"file": 1}


def test_all_rules_are_tried_here():
    elsewhere = {"compacted", *REVIEW_RULES}
    tried = {rule for *_, rules in DAMAGES for rule in rules}
    tried |= {"file", "pair", "metadata", "planned", "report"}
    assert tried | elsewhere == RULES.keys()


# Compacted tables


def test_a_compacted_table_is_looked_at_in_both_forms(table):
    commit(table, "empty", [])
    plan(table, [plan_unit("empty", [])], run_id="night-2", number=1)
    before = verify_sampled(table)
    compact(table, CompactSettings(table=table.uri))
    after = verify_sampled(table)
    (images,) = Path(table.uri).glob("_compacted/*/images/000.parquet")
    name = str(images.relative_to(table.uri))
    assert after.findings.counts == before.findings.counts
    assert (after.num_images, after.num_segments) == (before.num_images, before.num_segments)
    rewrite(table, name, lambda rows: rows[0].update(error_message="changed"))
    assert broken_rules(table)["compacted"] == 1
    rewrite(table, name, lambda rows: rows.pop())
    assert {"compacted", "missing", "report"} <= broken_rules(table).keys()
    images.unlink()
    assert broken_rules(table)["file"] == 1


# The command


def test_the_command_prints_json_and_says_by_its_exit_code(table, capsys):
    assert run_job("verify", [table.uri, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["sound"], said["images"], said["findings"]) == (True, 18, {})
    rewrite(table, SEGMENTS, lambda rows: rows[0].update(bbox_y=99))
    assert run_job("verify", ["--json", table.uri]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["findings"]["box"]["must_hold"] == RULES["box"]


def test_verify_runs_as_people_type_it(table):
    command = [sys.executable, "-m", "pipeline.cli", "verify", table.uri, "--sample", "0.5"]
    root = Path(pipeline.__file__).parents[1]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"18 images, \d+ segments, 3 units: sound \(", ended.stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TABLE must be given"),
        (["/nowhere"], "is no segment table"),
        (["/nowhere", "--sample", "2"], "sample must be in (0, 1], got 2.0"),
        (["/nowhere", "--unknown", "2"], "there is no setting"),
    ],
)
def test_wrong_usage_of_verify_is_one_line(capsys, words, message):
    assert run_job("verify", words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_storage_that_fails_is_worth_trying_again(capsys, monkeypatch, table):
    from pipeline.storage import StorageFault

    def fails(self: Storage, uri: str) -> object:
        raise StorageFault(f"list {uri}: 503")

    monkeypatch.setattr(Storage, "files", fails)
    assert run_job("verify", [table.uri]) == 75
    assert "run the same command again" in capsys.readouterr().err
