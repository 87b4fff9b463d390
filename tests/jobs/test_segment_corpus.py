"""`jobs/segment_corpus.py` on this machine: options in; tables, reports and exit codes out."""

import io
import json
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from drawn import (
    MIXED_IDS,
    bad_corpus,
    png,
    second_end,
    spoil,
    tar,
    written,
    written_mixed_corpus,
)
from job_runs import ROOT, Here, Jobs, words
from poison import DECODER_CRASHES, POISON
from table_rows import Run, assert_same, rows_of

from jobs import segment_corpus
from pipeline.corpora.sources import Source
from pipeline.planning.planner import Plan, Unit
from pipeline.runtime import run_stats as stats
from pipeline.runtime.progress import ProgressDisplay
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.table.store import IMAGES, SEGMENTS, decode_rle

pytestmark = pytest.mark.timeout(600)


# The output of a run


def test_every_image_of_every_kind_of_source_gets_one_row(mixed: Run) -> None:
    assert mixed.rows.ids == sorted(MIXED_IDS)
    assert {row["status"] for row in mixed.rows.images} == {"ok"}
    images = {row["image_id"]: row for row in mixed.rows.images}
    assert images["photos/000.png"]["member"] is None
    assert images["photos/000.png"]["uri"] == str(mixed.corpus / "photos/000.png")
    assert images["far"]["uri"].endswith("elsewhere/far.png")
    # The photograph counts where a label map has its key.
    assert images["shards/a.tar/0001"]["member"] == "0001.jpg"


def test_a_unit_has_two_plain_files_in_order_that_say_what_made_them(mixed: Run) -> None:
    names = {path.name for path in (mixed.table / "images").iterdir()}
    assert len(names) > 3
    assert names == {path.name for path in (mixed.table / "segments").iterdir()}
    for name in names:
        images = pq.ParquetFile(mixed.table / "images" / name)
        segments = pq.ParquetFile(mixed.table / "segments" / name)
        rows = images.read().to_pylist()
        assert [row["position"] for row in rows] == list(range(len(rows)))
        assert {row["unit_id"] for row in rows} == {name.removesuffix(".parquet")}
        assert [(row["image_id"], row["segment_id"]) for row in segments.read().to_pylist()] == [
            (row["image_id"], number)
            for row in rows
            for number in range(1, row["num_segments"] + 1)
        ]
        for file, schema in ((images, IMAGES), (segments, SEGMENTS)):
            assert file.schema_arrow.remove_metadata() == schema
            assert {b"schema_version", b"model_fingerprint", b"labels"} <= {*file.metadata.metadata}
            if file.metadata.num_row_groups:
                column = file.metadata.row_group(0).column(0)
                assert column.compression == "ZSTD"
                assert column.is_stats_set


def test_masks_have_their_area_and_box_and_share_no_pixel(mixed: Run) -> None:
    by_image = defaultdict(list)
    for row in mixed.rows.segments:
        by_image[row["image_id"]].append(row)
    assert max(map(len, by_image.values())) > 1
    for image in mixed.rows.images:
        covered = np.zeros((image["height"], image["width"]), int)
        for row in by_image[image["image_id"]]:
            mask = decode_rle(row["rle"], height=row["height"], width=row["width"]).astype(bool)
            assert mask.shape == covered.shape
            y, x = np.nonzero(mask)
            assert row["area"] == mask.sum()
            box = (x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1)
            assert (row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"]) == box
            assert 0.3 <= row["score"] <= 1
            covered += mask
        assert covered.max() <= 1
        assert image["coverage"] == pytest.approx(covered.mean())
        assert image["num_segments"] == len(by_image[image["image_id"]])


def test_a_fused_label_is_stuff_and_has_one_segment_per_image(mixed: Run) -> None:
    assert {row["label_id"] for row in mixed.rows.segments} > {2}
    for row in mixed.rows.segments:
        assert row["is_thing"] == (row["label_id"] not in (1, 2))
    fused = Counter(
        (row["image_id"], row["label_id"]) for row in mixed.rows.segments if not row["is_thing"]
    )
    assert set(fused.values()) == {1}


def test_any_tool_reads_the_table(mixed: Run) -> None:
    counts = Counter(row["label"] for row in mixed.rows.segments)
    query = f"SELECT label, count(*) FROM '{mixed.table}/segments/*.parquet' GROUP BY label"
    assert dict(duckdb.sql(query).fetchall()) == counts
    frame = polars.scan_parquet(mixed.table / "segments" / "*.parquet").collect()
    assert dict(frame.group_by("label").len().iter_rows()) == counts


def test_a_run_says_what_it_did_to_people_and_to_programs(mixed: Run) -> None:
    report = mixed.ended.report
    sources = mixed.rows.images
    assert report["exit_code"] == 0
    assert report["images"] == len(MIXED_IDS)
    assert report["images_in_error"] == 0
    assert report["segments"] == len(mixed.rows.segments)
    assert report["units_planned"] == report["units_committed"]
    assert report["units_committed"] == len({row["unit_id"] for row in sources})
    assert report["units_done_before"] == 0
    assert report["faults"] == report["errors"] == {}
    assert report["files_passed_over_examples"] == [str(mixed.corpus / "README.md")]
    shard = f"{mixed.corpus}/shards/a.tar, member"
    assert {reason: said["examples"] for reason, said in report["passed_over"].items()} == {
        "of no known kind": [str(mixed.corpus / "README.md"), f"{shard} notes.txt"],
        "hidden": [str(mixed.corpus / ".hidden.png")],
        "beside the image of the same name": [f"{shard} 0001.png"],
    }
    assert (mixed.table / "_runs" / report["run_id"] / "settings.yaml").exists()
    assert f"labelled {len(MIXED_IDS)} images" in mixed.ended.stdout
    assert "skipped 2 files (of no known kind), for example " in mixed.ended.stdout
    assert "README.md" in mixed.ended.stdout
    mixed.ended.assert_quiet(units=report["units_planned"])
    assert not (mixed.table / "_staging").exists()


# Runs on a table that is there


def test_a_second_run_reads_nothing_and_a_grown_corpus_costs_what_is_new(
    jobs: Jobs, here: Here, mixed: Run, usual: dict[str, Any]
) -> None:
    options = {
        "corpus": mixed.corpus,
        "table": mixed.table,
        "unit_images": 3,
        "label_ids_to_fuse": "1,2",
        **usual,
    }
    for name in ("photos/000.png", "photos/001.jpg", "shards/a.tar", "shards/b.tar"):
        spoil(mixed.corpus / name)
    files = _contents(mixed.table, ["images", "segments"])

    second = here(segment_corpus.main, **options)

    assert second.exit_code == 0, second.stderr
    assert second.report["bytes_read"] == second.report["images"] == 0
    assert second.report["units_done_before"] == mixed.ended.report["units_committed"]
    assert _contents(mixed.table, ["images", "segments"]) == files

    written(mixed.corpus, {"photos/000a.png": png(20), "shards/ab.tar": tar({"1.png": png(21)})})
    third = jobs.run(local=True, **options).expect(0)

    assert third.report["bytes_read"] == len(png(20)) + len(png(21))
    assert third.report["images"] == 2
    rows = rows_of(mixed.table)
    assert_same(rows.of(mixed.rows.ids), mixed.rows)
    assert set(rows.ids) - set(mixed.rows.ids) == {"photos/000a.png", "shards/ab.tar/1"}
    assert files.items() <= _contents(mixed.table, ["images", "segments"]).items()


@pytest.mark.faults
def test_a_limited_run_and_the_rest_are_a_whole_run(
    jobs: Jobs, mixed: Run, tiny_model: Path, tmp_path: Path
) -> None:
    corpus, table = written_mixed_corpus(tmp_path), tmp_path / "table"
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"model: {tiny_model}\nthreshold: 0.3\noverlap_mask_area_threshold: 0.05\n"
        "label_ids_to_fuse: [1, 2]\nunit_images: 100\nlimit: 100\nnum_actors: 1\n"
    )

    first = jobs.run(config=config, corpus=corpus, table=table, unit_images=4, limit=7).expect(0)
    rest = jobs.run(config=config, corpus=corpus, table=table).expect(0)

    assert first.report["images"] == 7
    assert first.report["units_planned"] >= 2  # the command line wins over the file
    assert rest.report["images"] == len(MIXED_IDS) - 7
    assert_same(rows_of(table), mixed.rows, apart_from=["uri", "etag", "unit_id", "position"])


# Tasks


@pytest.mark.faults
def test_an_instance_run_finds_things_and_a_semantic_one_covers_images(
    jobs: Jobs, plain: Path, tiny_model: Path, tmp_path: Path
) -> None:
    options = {"corpus": plain, "model": tiny_model, "limit": 6, "num_actors": 1}
    # Side by side: much of a run's time is waiting for Ray to start and to stop.
    both = [
        jobs.start(table=tmp_path / "things", task="instance", threshold=0.7, **options),
        jobs.start(table=tmp_path / "regions", task="semantic", **options),
    ]
    for job in both:
        job.end().expect(0)

    things, regions = rows_of(tmp_path / "things"), rows_of(tmp_path / "regions")
    assert things.ids == regions.ids == [f"{index:03}.png" for index in range(6)]
    assert things.segments
    assert {row["is_thing"] for row in things.segments} == {True}
    assert {row["is_thing"] for row in regions.segments} == {False}
    # An image without segments has its row.
    assert 0 in {row["num_segments"] for row in things.images}
    for image in regions.images:
        labels = [r["label"] for r in regions.segments if r["image_id"] == image["image_id"]]
        assert image["coverage"] == 1
        assert len(labels) == len(set(labels)) == image["num_segments"]


def test_a_dry_run_of_a_checkout_forecasts_by_its_own_code_and_writes_nothing(
    jobs: Jobs, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    for package in ("jobs", "maskformer", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / "checkout" / package)
    segmenting = tmp_path / "checkout" / "pipeline" / "labelling" / "segmenting" / "segmenter.py"
    with open(segmenting, "a") as file:
        file.write('\nfrom pathlib import Path\n\nPath(__file__).with_name("was_here").touch()\n')
    table = tmp_path / "table"
    options = {"corpus": plain, "table": table, "dry_run": True, "unit_images": 5, **usual}
    job = tmp_path / "checkout" / "jobs" / "segment_corpus.py"

    ended = jobs.start_command([sys.executable, str(job), *words(options)]).end().expect(0)

    assert segmenting.with_name("was_here").exists()
    size = sum(path.stat().st_size for path in plain.iterdir())
    assert "units: 3\n" in ended.stdout
    assert "images: 12\n" in ended.stdout
    assert f"bytes: {size:,}\n" in ended.stdout
    assert "sample: 4 images" in ended.stdout
    assert "forecast: " in ended.stdout
    assert not table.exists()


# Bad input


@pytest.fixture(scope="module")
def bad(jobs: Jobs, usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on bad files, one of which ends the process that decodes it, above the error budget.

    Without a cluster; runs on one are faults.
    """
    folder = tmp_path_factory.mktemp("bad")
    files = bad_corpus() | {f"bad/{name}": data for name, (data, _) in DECODER_CRASHES.items()}
    corpus, table = written(folder / "corpus", files), folder / "table"
    options = {"corpus": corpus, "table": table, "error_budget": 0.4, "local": True, **usual}
    ended = jobs.run(environment=POISON, **options)
    assert not ended.started_ray
    return Run(corpus=corpus, table=table, rows=rows_of(table), ended=ended)


def test_bad_files_get_a_row_that_says_what_is_wrong(bad: Run) -> None:
    cut = second_end(tar({"0001.png": png(3), "0002.png": png(4), "0003.png": png(5)}))
    expected = {
        "bad/truncated.jpg": ("TruncatedImage", "truncated.jpg"),
        "bad/empty.jpg": ("EmptyFile", "empty.jpg"),
        "bad/page.jpg": ("NotAnImage", "page.jpg"),
        "bad/bomb.png": ("DecompressionBomb", "bomb.png"),
        "bad/crash.png": ("DecoderCrashed", "crash.png"),
        f"bad/cut.tar@{cut}": ("TruncatedArchive", "cut.tar: "),
        "bad/gone.png": ("NotFound", "gone.png"),
    }
    failed = {row["image_id"]: row for row in bad.rows.images if row["status"] == "error"}
    assert {name: row["error_class"] for name, row in failed.items()} == {
        name: error_class for name, (error_class, _) in expected.items()
    }
    for name, (_, place) in expected.items():
        assert place in failed[name]["error_message"] or place in failed[name]["uri"]
    assert str(cut) in failed[f"bad/cut.tar@{cut}"]["error_message"]
    assert {"bad/cut.tar/0001", "bad/cut.tar/0002"} <= set(bad.rows.ids)
    assert {row["image_id"] for row in bad.rows.images if row["status"] == "ok"} == {
        *(name for name in bad_corpus() if name.startswith("well/")),
        "bad/cut.tar/0001",
        "bad/cut.tar/0002",
    }


def test_unusual_files_give_the_right_pixels(bad: Run) -> None:
    def segments(image_id: str) -> list[Any]:
        rows = [row for row in bad.rows.segments if row["image_id"] == image_id]
        return [(row["label"], row["rle"], row["score"]) for row in rows]

    assert segments("well/plain.png")
    assert segments("well/16-bit.png") == segments("well/8-bit.png") != []
    assert segments("well/animated.gif") == segments("well/first.png") != []


def test_errors_above_the_budget_are_exit_code_4_and_what_is_good_was_kept(bad: Run) -> None:
    """Within it they are exit code 3, as those of the run in test_hard_inputs.py are."""
    ended = bad.ended.expect(4)
    assert "--error_budget" in ended.stdout
    assert ended.report["images_in_error"] == 7
    assert ended.report["errors"]["NotAnImage"] == 1
    assert "page.jpg" in ended.report["error_examples"]["NotAnImage"][0]["message"]
    assert "page.jpg" in ended.stdout
    assert len(bad.rows.images) == 14


@pytest.mark.faults
def test_one_run_within_the_budget_and_one_above_it_leave_the_same(
    jobs: Jobs, bad: Run, usual: dict[str, Any], tmp_path: Path
) -> None:
    options = {"corpus": bad.corpus, "table": tmp_path / "table", "error_budget": 0.6, **usual}
    jobs.run(environment=POISON, **options).expect(3)
    assert_same(rows_of(tmp_path / "table"), bad.rows)


# Refusals


@pytest.fixture(scope="module")
def wrong(
    unbroken: Run,
    usual: dict[str, Any],
    plain: Path,
    other_model: Path,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Options that are refused, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "empty").mkdir()
    written(folder / "notes", {"README.md": b"#"})
    no_weights = written(
        folder / "no_weights", {n: (tiny_model / n).read_bytes() for n in _CONFIGURATION}
    )
    more_labels = written(
        folder / "more_labels", {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    )
    config = json.loads((more_labels / "config.json").read_text())
    config["id2label"] = {index: f"label {index}" for index in range(7)}
    (more_labels / "config.json").write_text(json.dumps({**config, "label2id": None}))
    new = {"corpus": plain, "table": folder / "table", **usual}
    old = {**new, "table": unbroken.table}
    return {
        "empty corpus": {**new, "corpus": folder / "empty"},
        "no corpus": {**new, "corpus": folder / "nowhere"},
        "corpus of notes": {**new, "corpus": folder / "notes"},
        "no weights": {**new, "model": no_weights},
        "other shapes": {**new, "model": more_labels},
        "no model": {**new, "model": folder / "nowhere"},
        "another model": {**old, "model": other_model},
        "another threshold": {**old, "threshold": 0.4},
        "unknown setting": {**new, "treshold": 0.4},
        "wrong type": {**new, "threshold": "high"},
        "no effect": {"corpus": plain, "table": folder / "table", "model": tiny_model}
        | {"task": "semantic", "threshold": 0.4},
        "storage away": {**new, "corpus": "s3://bucket/corpus", "storage_attempts": 2},
    }


_CONFIGURATION = ("config.json", "preprocessor_config.json")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty corpus", ["no image", "empty"]),
        ("no corpus", ["nowhere"]),
        ("corpus of notes", ["no image", "README.md"]),
        ("no weights", ["no_weights", "safetensors"]),
        ("other shapes", ["more_labels", "class_predictor.weight is 5x32, the model's 8x32"]),
        ("no model", ["nowhere"]),
        ("another model", ["model_fingerprint: the table has", "another --table"]),
        ("another threshold", ["threshold: the table has 0.3, this run 0.4", "another --table"]),
        ("unknown setting", ["treshold"]),
        ("wrong type", ["threshold", "high"]),
        ("no effect", ["threshold has no effect on the task semantic"]),
    ],
)
def test_wrong_usage_is_one_clear_line_before_anything_starts(
    here: Here, wrong: dict[str, dict[str, Any]], what: str, words: list[str]
) -> None:
    line = here(segment_corpus.main, **wrong[what]).one_line
    for word in ("segment_corpus: ", *words):
        assert word in line
    assert not wrong["no corpus"]["table"].exists()


def test_processes_end_with_2_for_wrong_usage_and_75_for_a_store_that_is_away(
    jobs: Jobs, wrong: dict[str, dict[str, Any]]
) -> None:
    nowhere = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    refusing = jobs.start(**wrong["another threshold"])
    trying = jobs.start(environment=nowhere, **wrong["storage away"])
    refused, away = refusing.end().expect(2), trying.end().expect(75)
    assert "another --table" in refused.one_line
    [line] = away.stderr.splitlines()
    assert "s3://bucket/corpus" in line
    assert "again" in line
    assert not refused.started_ray
    assert not away.started_ray


# Progress


def test_without_a_terminal_progress_is_a_line_with_rate_errors_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source(uri="/c/1.tar", name="1.tar", kind="tar", etag="1", size=10, num_images=200)
    plan = Plan(
        units=(Unit(unit_id="u", sources=(source,)),),
        done=0,
        earlier=0,
        doubled=(),
    )
    seconds = iter([100.0, 150.0])
    monkeypatch.setattr(stats, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    done = RunStats()
    done.add(Counts(images=10), errors=[])
    done.add(Counts(images=100, errors=Counter(NotAnImage=3)), errors=[])

    line = ProgressDisplay(done, plan, output=io.StringIO()).line()

    assert line == "110 of 200 images, 2 images/s, 3 errors, 45 s left"


def _contents(table: Path, parts: list[str]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for part in parts for path in (table / part).iterdir()}
