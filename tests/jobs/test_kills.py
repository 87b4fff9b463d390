"""Runs that are killed, in whole or in part, and run again: every image exactly once."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drawn import plain_corpus, spoil, written
from job_runs import Jobs, Moment
from table_rows import Run, assert_same, rows_of
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)

# In the order in which a run comes to them: after each kill the next run gets further.
MOMENTS = [
    ("before put", "*/_table.json"),  # planning
    ("before put", "*/plan.parquet"),
    ("after put", "*/plan.parquet"),
    ("before read", "*/00[4-9].png"),
    ("before segment", "*"),
    ("before put", "*/_staging/*"),
    ("after put", "*/_staging/*"),  # the receipt is lost
    ("before put", "*/segments/*"),
    ("before put", "*/images/[!.]*"),  # between the two; not the draft
    ("after put", "*/images/[!.]*"),  # the unit is done, its staged parts are still there
    ("before unlink", "*/_staging/*"),
]


def test_what_kills_leave_two_runs_at_once_make_whole(
    jobs: Jobs, unbroken: Run, usual: dict[str, Any], tmp_path: Path
) -> None:
    """Workers die, then their driver, with units done and others not; two runs do the rest.

    One of the two is on Ray, the other without. Each of these alone is a test below; tests/faults/
    has every step of a commit by itself.
    """
    corpus, table = written(tmp_path / "corpus", plain_corpus(12)), tmp_path / "table"
    options = {"corpus": corpus, "table": table, "unit_images": 2, **usual}
    workers = [
        Moment(at=at, name=name, do="kill self")
        for at, name in (
            ("before read", "*/00?.png"),
            ("before segment", "*"),
            ("before put", "*/images/[!.]*"),
        )
    ]

    _kill("before unlink", "*/_staging/*", jobs=jobs, options=options, before=workers)

    assert [moment.came for moment in workers] == [True] * 3
    done = _check_and_spoil(table, corpus, unbroken=unbroken, done=set())
    assert 2 <= len(done) < 12
    both = [jobs.start(local=local, **options) for local in ("false", True)]
    assert [job.end().exit_code for job in both] == [0, 0]
    assert_same(rows_of(table), unbroken.rows, apart_from=["uri", "etag", "unit_id"])
    assert _files_at(table / "_staging") == []


@pytest.mark.faults
def test_kills_leave_what_an_unbroken_run_leaves(
    jobs: Jobs, unbroken: Run, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "corpus", plain_corpus(12))
    options = {"corpus": corpus, "table": tmp_path / "table", "unit_images": 2, **usual}
    done: set[str] = set()
    for at, name in MOMENTS:
        _kill(at, name, jobs=jobs, options=options)
        done = _check_and_spoil(tmp_path / "table", corpus, unbroken=unbroken, done=done)
    left = set(unbroken.rows.ids) - done
    assert len(done) >= 4
    assert left

    report = jobs.run(**options).expect(0).report

    assert report["bytes_read"] == sum((corpus / name).stat().st_size for name in left)
    assert report["images"] == len(left)
    assert report["units_done_before"] == len(done) / 2
    _kill("before put", "*/report.json", jobs=jobs, options=options)
    last = jobs.run(**options).expect(0)
    assert not last.started_ray
    rows = rows_of(tmp_path / "table")
    assert_same(rows, unbroken.rows, apart_from=["uri", "etag", "unit_id"])
    assert _files_at(tmp_path / "table" / "_staging") == []


@pytest.mark.faults
def test_a_run_survives_the_death_of_each_kind_of_worker(
    jobs: Jobs, unbroken: Run, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    moments = [
        Moment(at=at, name=name, do="kill self")
        for at, name in (
            ("before read", "*/005.png"),
            ("before segment", "*006.png*"),
            ("after put", "*/_staging/*"),
            ("before put", "*/images/[!.]*"),
        )
    ]

    ended = jobs.run(
        corpus=plain, table=tmp_path / "table", unit_images=2, moments=moments, **usual
    ).expect(0)

    assert [moment.came for moment in moments] == [True] * 4
    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert ended.report["images"] == 12
    assert _files_at(tmp_path / "table" / "_staging") == []


@pytest.mark.faults
def test_a_run_that_is_told_to_end_says_what_it_did_and_that_it_is_to_be_tried_again(
    jobs: Jobs, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    moment = Moment(at="before segment", name="*", do="wait")
    job = jobs.start(
        corpus=plain, table=tmp_path / "table", unit_images=2, moments=[moment], **usual
    )
    wait_until(lambda: moment.came or job.process.poll() is not None, what="the first block")

    job.process.terminate()  # as a scheduler does

    ended = job.end().expect(75)
    assert "run the same command again" in ended.stdout
    assert ended.report["exit_code"] == 75
    assert ended.report["units_committed"] == 0
    assert rows_of(tmp_path / "table").ids == []


@pytest.mark.faults
def test_two_runs_at_once_on_one_table_lose_and_double_nothing(
    jobs: Jobs, unbroken: Run, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    options = {"corpus": plain, "table": tmp_path / "table", "unit_images": 2, **usual}

    both = [jobs.start(**options) for _ in range(2)]

    assert [job.end().exit_code for job in both] == [0, 0]
    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert _files_at(tmp_path / "table" / "_staging") == []


def _kill(
    at: str, name: str, *, jobs: Jobs, options: dict[str, Any], before: Sequence[Moment] = ()
) -> None:
    """Runs until the moment, at which the driver is killed; `before` are others of the same run."""
    moment = Moment(at=at, name=name, do="kill driver")
    ended = jobs.run(moments=[*before, moment], **options)
    assert moment.came, f"no process came to {at} {name}\n{ended.stdout}{ended.stderr}"
    assert ended.exit_code == -signal.SIGKILL, f"{at} {name}"


def _check_and_spoil(table: Path, corpus: Path, *, unbroken: Run, done: set[str]) -> set[str]:
    """Checks what is visible; then spoils the sources of what is done, so that reading them
    again would be seen in the rows. Returns the ids of what is done."""
    if not (table / "_table.json").exists():
        return done
    rows = rows_of(table)
    assert_same(rows, unbroken.rows.of(rows.ids), apart_from=["uri", "etag", "unit_id"])
    assert len(set(rows.ids)) == len(rows.ids)
    assert done <= set(rows.ids)
    for image_id in rows.ids:
        spoil(corpus / image_id)
    return set(rows.ids)


def _files_at(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
