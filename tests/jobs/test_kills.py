"""Runs that are killed, in whole or in part, and run again: every image exactly once."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Unbroken
from drawn import plain_corpus, written
from job_runs import Jobs, Moment
from table_rows import assert_same, rows_of

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
    ("before put", "*/images/*"),  # between the two
    ("after put", "*/images/*"),  # the unit is done, its staged parts are still there
    ("before unlink", "*/_staging/*"),
    ("before put", "*/report.json"),
]


def test_twelve_kills_in_a_row_leave_what_an_unbroken_run_leaves(
    jobs: Jobs, unbroken: Unbroken, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    corpus = _copy(plain, tmp_path / "corpus")
    options = {"corpus": corpus, "table": tmp_path / "table", "unit_images": 2, **usual}
    done: set[str] = set()
    for at, name in MOMENTS:
        moment = Moment(at=at, name=name, do="kill driver")
        ended = jobs.run(moments=[moment], **options)
        assert moment.came, f"no process came to {at} {name}\n{ended.stdout}{ended.stderr}"
        assert ended.exit_code == -9, f"{at} {name}"
        done = _check_and_spoil(tmp_path / "table", corpus, unbroken=unbroken, done=done)
    assert done == set(unbroken.rows.ids)  # the last kill came after the last commit

    jobs.run(**options).expect(0)

    assert_same(
        rows_of(tmp_path / "table"), unbroken.rows, apart_from=["uri", "etag", "unit_id"]
    )
    assert _files_at(tmp_path / "table" / "_staging") == []


def test_finished_units_are_not_read_again_after_a_kill(
    jobs: Jobs, unbroken: Unbroken, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    corpus = _copy(plain, tmp_path / "corpus")
    options = {"corpus": corpus, "table": tmp_path / "table", "unit_images": 2, **usual}
    moment = Moment(at="after put", name="*/images/*", do="kill driver")
    jobs.run(moments=[moment], **options).expect(-9)
    done = _check_and_spoil(tmp_path / "table", corpus, unbroken=unbroken, done=set())

    report = jobs.run(**options).expect(0).report

    left = set(unbroken.rows.ids) - done
    assert left
    assert report["bytes_read"] == sum((corpus / name).stat().st_size for name in left)
    assert report["images"] == len(left)
    assert report["units_done_before"] == len(done) / 2


def test_a_run_survives_the_death_of_each_kind_of_worker(
    jobs: Jobs, unbroken: Unbroken, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    moments = [
        Moment(at=at, name=name, do="kill self")
        for at, name in (
            ("before read", "*/005.png"),
            ("before segment", "*006.png*"),
            ("after put", "*/_staging/*"),
            ("before put", "*/images/*"),
        )
    ]

    ended = jobs.run(
        corpus=plain, table=tmp_path / "table", unit_images=2, moments=moments, **usual
    ).expect(0)

    assert [moment.came for moment in moments] == [True] * 4
    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert ended.report["images"] == 12
    assert _files_at(tmp_path / "table" / "_staging") == []


def test_two_runs_at_once_on_one_table_lose_and_double_nothing(
    jobs: Jobs, unbroken: Unbroken, usual: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    options = {"corpus": plain, "table": tmp_path / "table", "unit_images": 2, **usual}

    both = [jobs.start(**options) for _ in range(2)]

    assert [job.end().exit_code for job in both] == [0, 0]
    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert _files_at(tmp_path / "table" / "_staging") == []


def _copy(corpus: Path, folder: Path) -> Path:
    return written(folder, plain_corpus(len(list(corpus.iterdir()))))


def _check_and_spoil(
    table: Path, corpus: Path, *, unbroken: Unbroken, done: set[str]
) -> set[str]:
    """What is visible is right and whole; then what is done is made unreadable, so that reading it
    again would be seen in the rows. Gives the ids of what is done."""
    if not (table / "_table.json").exists():
        return done
    rows = rows_of(table)
    assert_same(
        rows, unbroken.rows.of(rows.ids), apart_from=["uri", "etag", "unit_id"]
    )
    assert len(set(rows.ids)) == len(rows.ids)
    assert done <= set(rows.ids)
    for image_id in rows.ids:
        spoil(corpus / image_id)
    return set(rows.ids)


def spoil(path: Path) -> None:
    """Other content of the same size and time: who does not read it cannot tell."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _files_at(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
