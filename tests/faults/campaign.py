"""A campaign of kills: jobs are killed at random moments and started again until they are done.

Victims and moments follow from the seed, as far as the machine lets them: a moment is a share of
the length of an unbroken run. What is killed is found among the descendants of the job's own
process, and by its id.
"""

import contextlib
import glob
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

import psutil
import pyarrow.parquet as pq
from job_runs import ROOT, SEGMENT_CORPUS, Job, Jobs, words

from pipeline.table.store import images

Victim = Literal["worker", "actor", "raylet", "driver"]
VICTIMS: tuple[Victim, ...] = ("worker", "actor", "raylet", "driver")
# Workers more often, because their run goes on.
_DRAWN: tuple[Victim, ...] = ("worker", *VICTIMS)
_COUNTING = Path(__file__).parent / "counting"
_RIVAL = Path(__file__).parent / "rival.py"
_RUN_SECONDS = 600
_MOST_RUNS = 100
# All kills hit one table: once it is done, its runs have nothing to lose.
_MOST_KILLS = 6


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A job that is run again until it ends well, and how to see what it left."""

    name: str
    command: Callable[[Path], Sequence[str]]
    """Given the folder of its table."""
    rows: Callable[[Path], list[tuple[str, int]]]
    """Of that folder: name and number of segments of each image, as often as it is there."""


@dataclass(kw_only=True)
class CampaignFindings:
    """The findings of a campaign."""

    job: str
    kills: Counter[Victim] = field(default_factory=Counter)
    tables: int = 0
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    """Images with another number of segments than without kills."""
    unreadable: int = 0
    """Tables that no reader opens when the job says that it is done."""
    endless: int = 0
    """Runs that did not end after a kill, and tables that were not done after many runs."""
    again: float = 0
    """Images that were segmented once more, over images."""
    images: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"kills": dict(self.kills), "again": round(self.again, 3)})


def our_contestant(corpus: Path, usual: Mapping[str, object]) -> Contestant:
    def command(folder: Path) -> list[str]:
        # On a cluster: the victims are its processes, and so small a corpus would do without one.
        of_run = {"corpus": corpus, "table": folder / "table", "unit_images": 8, "local": "false"}
        options = {**of_run, **usual}
        return [sys.executable, str(SEGMENT_CORPUS), *words(options)]

    def rows(folder: Path) -> list[tuple[str, int]]:
        found = images(str(folder / "table")).to_table().to_pylist()
        return [(row["image_id"], row["num_segments"]) for row in found]

    return Contestant(name="ours", command=command, rows=rows)


def rival(corpus: Path, usual: Mapping[str, object], *, has_checkpoint: bool) -> Contestant:
    def command(folder: Path) -> list[str]:
        options = {"corpus": corpus, "table": folder / "table", "model": usual["model"]}
        if has_checkpoint:
            options["checkpoint"] = folder / "checkpoint"
        return [sys.executable, str(_RIVAL), *words(options)]

    def rows(folder: Path) -> list[tuple[str, int]]:
        found = [
            row
            for file in sorted(glob.glob(f"{folder}/table/*.parquet"))
            for row in pq.read_table(file).to_pylist()
        ]
        return [(Path(row["path"]).name, row["num_segments"]) for row in found]

    name = "Ray Data with CheckpointConfig" if has_checkpoint else "Ray Data, forty lines"
    return Contestant(name=name, command=command, rows=rows)


def campaign(
    contestant: Contestant, *, kills: int, seed: int, jobs: Jobs, folder: Path
) -> CampaignFindings:
    """Table after table, each made by runs of which all but the last are disturbed.

    Workers are killed as long as a run lives; one actor at most, since an image over which two died
    is taken for what ended them.
    """
    random, outcome = Random(seed), CampaignFindings(job=contestant.name)
    began = time.monotonic()
    _end(_start(contestant, folder / "unbroken", jobs=jobs), outcome, expect_zero=True)
    seconds = time.monotonic() - began
    expected = dict(contestant.rows(folder / "unbroken"))
    while outcome.kills.total() < kills:
        place = folder / f"{outcome.tables:03}"
        _make_table(
            contestant, place, kills=kills, seconds=seconds, random=random, jobs=jobs,
            outcome=outcome,
        )  # fmt: skip
        _judge(contestant, place, expected, outcome)
        print(outcome.to_json(), file=sys.stderr, flush=True)
    return outcome


def _make_table(
    contestant: Contestant,
    place: Path,
    *,
    kills: int,
    seconds: float,
    random: Random,
    jobs: Jobs,
    outcome: CampaignFindings,
) -> None:
    """Runs until one ends well; each is disturbed, as long as kills are left for the table."""
    outcome.tables += 1
    kills = min(kills, outcome.kills.total() + _MOST_KILLS)
    for _ in range(_MOST_RUNS):
        job = _start(contestant, place, jobs=jobs)
        outcome.runs += 1
        # Seldom before there is work: there is nothing to lose then.
        victims, earliest, latest = list(_DRAWN), random.choice((0, 0.5, 0.5)), 1.0
        while outcome.kills.total() < kills:
            victim, moment = random.choice(victims), random.uniform(earliest, latest)
            killed = _kill(job, victim, after_seconds=moment * seconds, random=random)
            if killed is None:
                break
            outcome.kills.update([killed])
            earliest, latest = 0, 0.2
            if killed == "actor":
                victims.remove(killed)
        if _end(job, outcome) == 0:
            return
    outcome.endless += 1


def _start(contestant: Contestant, place: Path, *, jobs: Jobs) -> Job:
    counted = place / "counted"
    counted.mkdir(parents=True, exist_ok=True)
    environment = {
        "COUNTED": str(counted),
        "PYTHONPATH": f"{_COUNTING}{os.pathsep}{ROOT}",
        # Where a fault is to be met by starting again, nobody should wait for long.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    }
    return jobs.start_command(contestant.command(place), environment=environment)


def _kill(job: Job, victim: Victim, *, after_seconds: float, random: Random) -> Victim | None:
    """Kills at the moment, or as soon after it as there is such a process; what was killed."""
    deadline = time.monotonic() + after_seconds
    while job.process.poll() is None:
        if time.monotonic() >= deadline:
            chosen = _processes(job, victim)
            if chosen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    random.choice(chosen).kill()
                    return victim
        time.sleep(0.02)
    return None


def _processes(job: Job, victim: Victim) -> list[psutil.Process]:
    """Returns the job's own processes of that kind."""
    if victim == "driver":
        return [psutil.Process(job.process.pid)]
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(job.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if _kind(process) == victim:
                    found.append(process)
    return found


def _kind(process: psutil.Process) -> Victim | None:
    if process.name() == "raylet":
        return "raylet"
    title = " ".join(process.cmdline())
    if not title.startswith("ray::") or title.startswith("ray::IDLE"):
        return None
    return "actor" if title.startswith("ray::MapWorker(") else "worker"


def _end(job: Job, outcome: CampaignFindings, *, expect_zero: bool = False) -> int:
    """The exit code of the run; all that it left running is ended, by its mark and ids."""
    deadline = time.monotonic() + _RUN_SECONDS
    while job.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if job.process.poll() is None:
        outcome.endless += 1
        os.kill(job.process.pid, signal.SIGKILL)
    code = job.process.wait()
    job.stop(seconds=0)
    if expect_zero and code != 0:
        raise AssertionError((job.folder / "stderr").read_text()[-3000:])
    return code


def _judge(
    contestant: Contestant, place: Path, expected: Mapping[str, int], outcome: CampaignFindings
) -> None:
    try:
        rows = contestant.rows(place)
    except Exception as error:
        outcome.unreadable += 1
        print(f"{contestant.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return
    found = Counter(name for name, _ in rows)
    outcome.images += len(expected)
    outcome.lost += len(set(expected) - set(found))
    outcome.doubled += sum(number - 1 for number in found.values())
    outcome.wrong += sum(expected.get(name) != number for name, number in rows)
    segmented = sum(
        int(line)
        for file in (place / "counted").iterdir()
        for line in file.read_text().splitlines()
    )
    before = outcome.again * (outcome.images - len(expected))
    outcome.again = (before + segmented - len(expected)) / outcome.images
