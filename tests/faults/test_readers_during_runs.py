"""Readers that look at a table all the time while runs work on it and are killed."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from drawn import plain_corpus, written
from job_runs import Job, Jobs
from small_runs import UNIT_IMAGES, all_rows, begun, exit_code, written_corpus

from pipeline.table.store import images, segments

_FORK = multiprocessing.get_context("fork")


class Readers:
    """DuckDB on the plain files, and pyarrow through our own reader, in turn, in a process of their
    own, until `stop`."""

    def __init__(self, table: Path, *, unit_images: int) -> None:
        self._stopped = _FORK.Event()
        self._seen, theirs = _FORK.Pipe(duplex=False)
        looking = _Looking(table, unit_images=unit_images)
        self._process = _FORK.Process(target=looking.go_on, args=(self._stopped, theirs))
        self._process.start()
        theirs.close()

    def stop(self) -> "Seen":
        self._stopped.set()
        seen = self._seen.recv()  # ends with an EOFError where looking failed
        self._process.join()
        return seen


@dataclass
class Seen:
    looks: Counter[str] = field(default_factory=Counter)
    partial: list[str] = field(default_factory=list)
    most_images: int = 0


class _Looking:
    def __init__(self, table: Path, *, unit_images: int) -> None:
        self._table, self._unit_images, self._seen = table, unit_images, Seen()

    def go_on(self, stopped: Any, to: Any) -> None:
        while not stopped.wait(0.01):
            self._duckdb()
            self._pyarrow()
        self._duckdb()
        self._pyarrow()
        to.send(self._seen)

    def _duckdb(self) -> None:
        """Images first: segments of what is done are there before."""
        if not any((self._table / "images").glob("*.parquet")):
            return
        with duckdb.connect() as connection:
            found = connection.sql(
                f"SELECT unit_id, image_id, num_segments FROM '{self._table}/images/*.parquet'"
            ).fetchall()
            counts = connection.sql(
                f"SELECT image_id, count(*) FROM '{self._table}/segments/*.parquet' GROUP BY ALL"
            ).fetchall()
        self._judge("duckdb", found, dict(counts))

    def _pyarrow(self) -> None:
        if not (self._table / "_table.json").exists():
            return
        columns = ["unit_id", "image_id", "num_segments"]
        found = images(str(self._table)).to_table(columns=columns).to_pylist()
        ids = segments(str(self._table)).to_table(columns=["image_id"])["image_id"].to_pylist()
        self._judge("pyarrow", [tuple(row.values()) for row in found], Counter(ids))

    def _judge(self, reader: str, found: list[Any], segments_of: dict[str, int]) -> None:
        seen = self._seen
        seen.looks[reader] += 1
        seen.most_images = max(seen.most_images, len(found))
        units = Counter(unit for unit, _, _ in found)
        seen.partial += [
            f"{reader}: {count} images of unit {unit}"
            for unit, count in units.items()
            if count != self._unit_images
        ]
        seen.partial += [
            f"{reader}: {segments_of.get(image_id, 0)} segments of {number} of {image_id}"
            for _, image_id, number in found
            if segments_of.get(image_id, 0) != number
        ]
        doubled = len(found) - len({image_id for _, image_id, _ in found})
        seen.partial += [f"{reader}: {doubled} images twice"] if doubled else []


def test_readers_see_whole_units_only_while_small_runs_are_killed(tmp_path: Path) -> None:
    names = [f"{n:02}.jpg" for n in range(24)]
    corpus, table = written_corpus(tmp_path / "corpus", names=names), tmp_path / "table"
    readers, random = Readers(table, unit_images=UNIT_IMAGES), Random(0)
    try:
        kills = _killed_until_done(corpus, table, random=random)
    finally:
        seen = readers.stop()
    assert seen.partial == []
    assert min(seen.looks[reader] for reader in ("duckdb", "pyarrow")) >= 5
    assert seen.most_images == len(names)
    assert kills >= 3
    assert [row["image_id"] for row in all_rows(table) if "unit_id" in row] == names


def _killed_until_done(corpus: Path, table: Path, *, random: Random) -> int:
    """The number of kills."""
    for kills in range(100):
        child = begun(corpus, table, run_id=f"run-{kills}", pause_seconds=0.05)
        if kills < 6:
            # The pauses of a whole run alone are longer than the first three of these.
            time.sleep(random.uniform(0.05, 0.15))
            os.kill(child, signal.SIGKILL)
        if exit_code(child) == 0:
            return kills
    raise AssertionError("not done after a hundred runs")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_readers_see_whole_units_only_while_jobs_are_killed(
    jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus, table = written(tmp_path / "corpus", plain_corpus(40)), tmp_path / "table"
    options = {"corpus": corpus, "table": table, "unit_images": 2, **usual}
    readers, random = Readers(table, unit_images=2), Random(0)
    kills = 0
    try:
        while True:
            job = jobs.start(**options)
            if kills < 4:
                _kill_when_further(job, table, by=random.randint(1, 5))
            ended = job.end()
            if ended.exit_code == 0:
                break
            kills += 1
    finally:
        seen = readers.stop()
    print(f"figure: {seen.looks} looks during {kills} kills, partial units {len(seen.partial)}")
    assert seen.partial == []
    assert min(seen.looks[reader] for reader in ("duckdb", "pyarrow")) >= 20
    assert seen.most_images == 40
    assert kills == 4


def _kill_when_further(job: Job, table: Path, *, by: int) -> None:
    """Kills the driver as soon as so many more units are done."""

    def done() -> int:
        return len(list((table / "images").glob("*.parquet")))

    target = done() + by
    while done() < target and job.process.poll() is None:
        time.sleep(0.005)
    if job.process.poll() is None:
        os.kill(job.process.pid, signal.SIGKILL)
