"""Several runs on one table at once: no row lost, none doubled, and how much work is done again."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from drawn import plain_corpus
from hooked import interleaved
from job_runs import Jobs
from s3 import KEY, SECRET, rclone_server, s3_server
from small_runs import all_rows, begun, exit_code, label_what_lacks, written_corpus
from table_rows import assert_same
from table_rows import rows_of as rows_of_table

from pipeline.maintenance.verify.tables import verify_table
from pipeline.storage import Storage, StorageFault
from pipeline.table.store import TableStore

_IMAGES = 240


@pytest.mark.parametrize("runs", [2, 4])
def test_processes_that_race_on_a_growing_corpus_leave_every_image_once(
    runs: int, tmp_path: Path
) -> None:
    """Without Ray. A run that found its parts cleared by another ends with 75, as it should."""
    names = [f"{n}.jpg" for n in range(10, 30)]
    corpus, table = written_corpus(tmp_path / "corpus", names=names), tmp_path / "table"
    children = []
    for number in range(runs):
        written_corpus(corpus, names=[f"{number}.jpg"])
        children.append(begun(corpus, table, run_id=f"run-{number}", pause_seconds=0.01))
    codes = [exit_code(child) for child in children]
    assert set(codes) <= {0, 75}
    assert 0 in codes
    last = begun(corpus, table, run_id="last")
    assert exit_code(last) == 0
    found = [row["image_id"] for row in all_rows(table) if "unit_id" in row]
    assert found == sorted([*names, *(f"{number}.jpg" for number in range(runs))])


def assert_of_one_attempt(table: Path) -> None:
    """Every row of `images` says what the unit's `segments` hold, whoever wrote the two."""
    for report in table.glob("_runs/*/report.json"):
        report.unlink()  # of no use to `verify`: these runs count nothing
    found = verify_table(
        TableStore(str(table), Storage()), sample=1.0, num_threads=1, most_examples=3
    )
    assert found.findings.counts == {}, found.findings.examples
    assert found.undone == ()


@pytest.mark.parametrize("seed", range(12))
def test_runs_whose_segmenters_differ_leave_units_of_one_attempt_each(
    seed: int, tmp_path: Path
) -> None:
    """Every operation of storage of one may fall between any two of the other."""
    corpus = written_corpus(tmp_path / "corpus", names=[f"{n}.jpg" for n in range(6)])

    def program(run_id: str) -> Callable[[Storage], None]:
        def run(storage: Storage) -> None:
            with contextlib.suppress(StorageFault):  # the other cleared its parts
                label_what_lacks(
                    corpus, tmp_path / "table", run_id=run_id, is_noisy=True, storage=storage
                )

        return run

    interleaved(program(f"one-{seed}"), program(f"two-{seed}"), seed=seed)
    label_what_lacks(corpus, tmp_path / "table", run_id="last", is_noisy=True)
    found = [row for row in all_rows(tmp_path / "table") if "unit_id" in row]
    assert [row["image_id"] for row in found] == [f"{n}.jpg" for n in range(6)]
    assert_of_one_attempt(tmp_path / "table")


def test_processes_whose_segmenters_differ_leave_units_of_one_attempt_each(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(10, 40)]
    corpus, table = written_corpus(tmp_path / "corpus", names=names), tmp_path / "table"
    children = [begun(corpus, table, run_id=f"run-{n}", is_noisy=True) for n in range(3)]
    assert {exit_code(child) for child in children} <= {0, 75}
    assert exit_code(begun(corpus, table, run_id="last", is_noisy=True)) == 0
    found = [row["image_id"] for row in all_rows(table) if "unit_id" in row]
    assert found == names
    assert_of_one_attempt(table)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("runs", "serve"), [(2, s3_server), (4, s3_server), (2, rclone_server)])
def test_jobs_that_race_on_a_table_in_a_bucket_leave_every_image_once(
    runs: int, serve: Any, jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    """Prints the share of images that were labelled more than once. rclone ignores conditions."""
    with serve(tmp_path) as server:
        storage = Storage(endpoint_url=server.endpoint_url, key=KEY, secret=SECRET)
        bucket = s3fs.S3FileSystem(
            endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, use_listings_cache=False
        )
        bucket.pipe({f"test/corpus/{n}": data for n, data in plain_corpus(_IMAGES).items()})

        def options(table: str) -> dict[str, Any]:
            return {
                "environment": server.environment,
                "corpus": "s3://test/corpus",
                "table": f"s3://test/{table}",
                "unit_images": 4,
                **usual,
            }

        jobs.run(**options("alone")).expect(0)
        racing = [jobs.start(**options("together")) for _ in range(runs)]
        for job in racing:
            assert job.end().exit_code in (0, 75)
        jobs.run(**options("together")).expect(0)

        alone = rows_of_table("s3://test/alone", storage=storage)
        together = rows_of_table("s3://test/together", storage=storage)
        reports = [json.loads(bucket.cat_file(name)) for name in bucket.find("test/together/_runs")
                   if name.endswith("report.json")]  # fmt: skip
    lost = len(set(alone.ids) - set(together.ids))
    doubled = len(together.ids) - len(set(together.ids))
    again = sum(r["images"] for r in reports) / _IMAGES - 1
    print(f"figure: lost {lost}, doubled {doubled}; {again:.1%} of the work done again")
    assert len(alone.ids) == _IMAGES
    assert_same(together, alone)
