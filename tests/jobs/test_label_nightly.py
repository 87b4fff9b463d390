"""`jobs/label_nightly.py`: what came is labelled, one run at a time, in time."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from drawn import plain_corpus, png, written
from job_runs import ROOT, Here, Job, Jobs, Moment, words
from table_rows import rows_of
from waiting import wait_until

from jobs import label_nightly
from pipeline.nightly.settings import PARTS
from pipeline.runtime.settings import WrongUsage, parse
from pipeline.table import latest

pytestmark = pytest.mark.timeout(600)

NIGHTLY = ROOT / "jobs" / "label_nightly.py"


def start_night(jobs: Jobs, *, moments: tuple[Moment, ...] = (), **options: Any) -> Job:
    """Starts a night, on Ray unless told."""
    command = [sys.executable, str(NIGHTLY), *words({"local": "false", **options})]
    return jobs.start_command(command, moments=moments)


def age(folder: Path, *, hours: float) -> None:
    then = time.time() - 3600 * hours
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def lock_of(table: Path) -> Path:
    return table / "_runs" / "lock.json"


def test_a_night_labels_what_has_settled_reports_and_leaves_no_lock(
    jobs: Jobs, here: Here, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "corpus", plain_corpus(3))
    age(corpus, hours=1)
    written(corpus, {"young.png": png(9)})
    table = tmp_path / "table"
    options = {"corpus": corpus, "table": table, "unit_images": 2, "deadline": "1h", **usual}

    first = start_night(jobs, local=True, **options).end().expect(0)

    assert not first.started_ray
    assert rows_of(table).ids == ["000.png", "001.png", "002.png"]
    assert first.report["images"] == 3
    assert (first.report["files_waiting"], first.report["units_left"]) == (1, 0)
    assert "files that may be incomplete still, left for another run: 1" in first.stdout
    assert (table / "_runs" / first.report["run_id"] / "report.html").exists()
    assert not lock_of(table).exists()

    # Without new images it takes seconds and starts no cluster.
    second = here(label_nightly.main, **options)
    assert second.exit_code == 0
    assert "nothing to do" in second.stderr

    # Somebody is at it.
    lock = {"run_id": "other", "host": "elsewhere", "pid": 7, "user": "ada"}
    lock |= {"started": "2026-03-01T02:00:00Z", "heartbeat": "2026-03-01T02:00:00Z"}
    lock_of(table).write_text(json.dumps(lock))
    third = here(label_nightly.main, **options)
    assert third.exit_code == 75
    [line] = third.stderr.splitlines()
    assert line.startswith(f"label_nightly: {table} is being labelled by run other (process 7 of ")
    assert "ada on elsewhere, since 2026-03-01T02:00:00Z" in line
    assert json.loads(lock_of(table).read_text()) == lock

    # The disk is not mounted: an empty folder is there in its place.
    lock_of(table).unlink()
    corpus.rename(tmp_path / "elsewhere")
    corpus.mkdir()
    fourth = here(label_nightly.main, **options)
    assert fourth.exit_code == 75
    [line] = fourth.stderr.splitlines()
    assert line.startswith(
        f"label_nightly: no image at {corpus} exists, but the corpus was labelled"
    )
    assert "is its disk mounted" in line
    assert rows_of(table).ids == ["000.png", "001.png", "002.png"]
    assert not lock_of(table).exists()


@pytest.mark.faults
def test_over_some_nights_what_is_new_and_what_changed_is_labelled_and_nothing_else(
    jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus, table = written(tmp_path / "corpus", plain_corpus(4)), tmp_path / "table"
    options = {"corpus": corpus, "table": table, "settle_minutes": 0, **usual}
    start_night(jobs, **options).end().expect(0)
    written(corpus, {"001.png": png(21), "new.png": png(22), "bad.png": b"no image"})

    second = start_night(jobs, **options, error_budget=1).end().expect(3)

    assert second.report["images"] == 3
    ids = [*plain_corpus(4), "bad.png", "new.png"]
    rows = latest.latest_images(str(table)).read_all().to_pylist()
    assert sorted(row["image_id"] for row in rows) == sorted(ids)
    assert len(rows_of(table).images) == len(ids) + 1
    third = start_night(jobs, **options, retry_errors="NotAnImage", error_budget=1).end().expect(3)
    assert (third.report["images"], third.report["images_tried_again"]) == (1, 1)


@pytest.mark.faults
def test_at_the_deadline_what_has_begun_is_committed_and_the_rest_is_left(
    jobs: Jobs, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    table, go_on = tmp_path / "table", tmp_path / "go-on"
    options = {"corpus": plain, "table": table, "unit_images": 1, "settle_minutes": 0, **usual}
    began = time.monotonic()
    held = Moment(at="before read", name=f"{plain}/*.png", do="wait", until=go_on)
    # A reader takes a quarter of any machine, so that some units have to wait.
    few = {"reader_cpus": (os.cpu_count() or 2) / 4}
    job = start_night(jobs, moments=(held,), deadline="120s", **few, **options)
    wait_until(
        lambda: time.monotonic() > began + 122 or job.process.poll() is not None,
        what="the deadline",
        seconds=200,
    )
    go_on.touch()

    ended = job.end().expect(0)

    done = ended.report["units_committed"]
    assert 1 <= done < 12
    assert ended.report["units_left"] == 12 - done
    assert ended.report["faults"] == {}
    assert f"units left for another run because of the deadline: {12 - done}" in ended.stdout
    assert len(rows_of(table).ids) == done
    assert start_night(jobs, **options).end().expect(0).report["images"] == 12 - done
    assert len(set(rows_of(table).ids)) == 12


@pytest.mark.faults
def test_a_night_that_was_killed_is_taken_over_and_one_that_was_stopped_gives_way(
    jobs: Jobs, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    options = {"corpus": plain, "table": table, "unit_images": 2, "settle_minutes": 0}
    options |= {"heartbeat_seconds": 0.5, "stale_seconds": 5, **usual}
    kill = Moment(at="before put", name="*/segments/*", do="kill driver")
    killed = start_night(jobs, moments=(kill,), **options).end()
    assert killed.exit_code == -signal.SIGKILL
    assert lock_of(table).exists()
    time.sleep(5)

    wait = Moment(at="before segment", name="*", do="wait")
    job = start_night(jobs, moments=(wait,), **options)
    wait_until(lambda: wait.came or job.process.poll() is not None, what="the first block")
    job.process.terminate()  # as a scheduler does
    stopped = job.end().expect(75)
    assert "took over the lock" in stopped.stderr
    assert not lock_of(table).exists()

    start_night(jobs, **options).end().expect(0)
    assert len(rows_of(table).ids) == len(set(rows_of(table).ids)) == 12


@pytest.mark.parametrize("config", sorted((ROOT / "configs" / "nightly").glob("*.yaml")))
def test_a_config_says_what_it_is_for_and_is_understood(config: Path) -> None:
    lines = config.read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:4])
    assert not lines[4].startswith("#")
    assert f"jobs/label_nightly.py --config configs/nightly/{config.name}" in lines[1]
    words = ["--config", str(config), "--corpus=c", "--table=t", "--model=m"]
    settings = parse(PARTS, arguments=words)
    assert yaml.safe_load(settings.to_yaml()).keys() >= yaml.safe_load(config.read_text()).keys()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--deadline=late", "deadline must be a time such as 06:30 or a duration such as 6h"),
        ("--max_attempts=1", "max_attempts must be at least 2"),
        ("--settle_minutes=-1", "settle_minutes must be at least 0"),
        ("--success_marker=a/b", "success_marker must be a file's name"),
        ("--heartbeat_seconds=100", "at most a third of stale_seconds"),
    ],
)
def test_wrong_settings_of_a_night_are_refused(option: str, message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        parse(PARTS, arguments=["--corpus=c", "--table=t", "--model=m", option])
