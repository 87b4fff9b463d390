"""Runs without a cluster: the same rows, whatever is killed, and no process of Ray."""

from pathlib import Path
from typing import Any

import pytest
from drawn import plain_corpus, spoil, written
from job_runs import Jobs, Moment
from table_rows import Run, assert_same, rows_of

pytestmark = pytest.mark.timeout(600)


def test_what_a_killed_run_left_another_one_completes_as_a_cluster_would(
    jobs: Jobs, unbroken: Run, usual: dict[str, Any], tmp_path: Path
) -> None:
    """A reader and a segmenter are killed, then the driver: its children end with it."""
    corpus, table = written(tmp_path / "corpus", plain_corpus(12)), tmp_path / "table"
    options = {"corpus": corpus, "table": table, "unit_images": 2, "local": True, **usual}
    moments = [
        Moment(at="before read", name="*/003.png", do="kill self"),
        Moment(at="before segment", name="*004.png*", do="kill self"),
        Moment(at="before unlink", name="*/_staging/*", do="kill driver"),
    ]
    killed = jobs.start(moments=moments, **options)
    killed.process.wait(timeout=300)
    assert killed.stop(seconds=30) == []
    done = set(rows_of(table).ids)
    assert 0 < len(done) < 12
    for name in done:
        spoil(corpus / name)  # seen in the rows, if it were read again

    ended = jobs.run(**options).expect(0)

    assert not ended.started_ray
    assert ended.report["images"] == 12 - len(done)
    assert_same(rows_of(table), unbroken.rows, apart_from=["uri", "etag", "unit_id"])
    assert [path for path in (table / "_staging").rglob("*") if path.is_file()] == []
    again = jobs.run(**options).expect(0)
    assert again.report["units_done_before"] == 6


def test_a_run_that_asks_for_a_cluster_and_for_none_is_wrong_usage(
    jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "corpus", plain_corpus(1))
    options = {"corpus": corpus, "table": tmp_path / "table", "local": True, **usual}
    line = jobs.run(reader_cpus=1, **options).one_line
    assert "--reader_cpus is for a Ray cluster" in line
    assert not (tmp_path / "table").exists()
