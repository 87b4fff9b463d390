"""Runs on a cluster whose GPUs exist by name only, some of which fail."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from faulty_jobs import rows_without_segments
from ray_here import ray_here

from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.report import Report, report_run, run_summary
from pipeline.planning.planner import Plan
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.run_stats import RunStats
from pipeline.table.store import TableStore, images

NUM_IMAGES, UNIT_IMAGES, BLOCK_IMAGES = 24, 6, 3


class AcceleratorError(RuntimeError):
    """Stands in for torch's, without torch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFaults:
    """The failures of each card."""

    diary: Path
    at_start: tuple[str, ...] = ()
    at_work: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    """Cards that fail at their first block, then no more."""
    poison: tuple[str, ...] = ()
    """Images at which any card fails."""
    first: tuple[str, int] = ("", 0)
    """An event, and how often it comes before card 0 does any work."""

    def __call__(self, model_files: Any, *, num_threads: int | None) -> "SegmenterOnFaultyCards":
        (gpu,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        self.note(f"start {gpu}")
        if gpu in self.at_start:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore of it")
        return SegmenterOnFaultyCards(self, gpu)

    def note(self, event: str) -> None:
        with open(self.diary, "a") as file:
            file.write(f"{event}\n")

    @property
    def events(self) -> Counter[str]:
        return Counter(self.diary.read_text().splitlines() if self.diary.exists() else ())


class SegmenterOnFaultyCards:
    """Finds no segment in any image."""

    def __init__(self, faults: CardFaults, gpu: str) -> None:
        self._faults, self._gpu = faults, gpu

    def __call__(self, block: pa.Table) -> pa.Table:
        faults = self._faults
        event, count = faults.first
        deadline = time.monotonic() + 30
        while self._gpu == "0" and faults.events[event] < count and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        is_sick = self._gpu in faults.at_work
        is_sick |= self._gpu in faults.once and not faults.events[f"fails {self._gpu}"]
        readable = block.filter(pc.field("pixels_height").is_valid())
        names = set(readable["image_id"].to_pylist())
        if is_sick or names & set(faults.poison):
            faults.note(f"fails {self._gpu}")
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        faults.note(f"works {self._gpu}")
        return rows_without_segments(block)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A node with two GPUs that no program will find."""
    with ray_here(__name__, "faulty_jobs", num_gpus=2):
        yield


@pytest.fixture
def run_on_cards(tmp_path, planned_job):
    """Runs the driver over pictures on so many cards; gives what a job would tell of it."""

    def run_on_cards(*, num_actors: int = 2, **faults: Any) -> tuple[Report, str, CardFaults]:
        faulty = CardFaults(diary=tmp_path / "diary", **faults)
        plan, job = planned_job(
            faulty,
            num_images=NUM_IMAGES,
            unit_images=UNIT_IMAGES,
            actors=ActorSettings(actor_cpus=0.1, num_actors=num_actors, block_images=BLOCK_IMAGES),
        )
        stats = RunStats()
        run_units(plan.units, job=job, stats=stats, on_progress=lambda: True)
        report = _report(plan, stats=stats, table=job.table)
        return report, run_summary(report, report_file="report.json"), faulty

    return run_on_cards


def _report(plan: Plan, *, stats: RunStats, table: TableStore) -> Report:
    return report_run(
        run_id="run",
        table=table.uri,
        corpus="c",
        plan=plan,
        stats=stats,
        seconds=1,
        error_budget=0.5,
        was_stopped=False,
    )


def rows_by_image(report: Report) -> dict[str, dict[str, Any]]:
    rows = images(report.table).to_table().to_pylist()
    by_image = {row["image_id"]: row for row in rows}
    assert len(by_image) == len(rows)
    return by_image


SLOW = pytest.mark.faults
AT_WORK = {"at_work": ("1",), "first": ("fails 1", 2)}
AT_START = {"at_start": ("1",), "first": ("start 1", 2)}


@pytest.mark.parametrize("failing", [AT_WORK, pytest.param(AT_START, marks=SLOW)])
def test_a_card_that_fails_is_left_alone_and_the_others_do_its_work(run_on_cards, failing):
    report, summary, faults = run_on_cards(**failing)
    assert report.exit_code == 0
    assert len(rows_by_image(report)) == NUM_IMAGES
    (left_alone,) = report.gpus_left_alone
    assert (left_alone["gpu"], left_alone["uuid"]) == ("1", None)
    assert "CUDA error: " in left_alone["error"]
    assert f"GPU 1 of node {left_alone['node']} failed" in summary
    assert "was left alone: " in summary
    assert "; look at nvidia-smi" in summary
    assert faults.events["works 1"] == 0
    # At work: four attempts at each of two blocks at once, and one at the next.
    assert 2 <= faults.events["start 1"] <= 9


@SLOW
def test_a_card_that_fails_once_goes_on(run_on_cards):
    report, summary, faults = run_on_cards(once=("1",), first=("fails 1", 1))
    assert (report.exit_code, report.gpus_left_alone) == (0, [])
    assert len(rows_by_image(report)) == NUM_IMAGES
    assert faults.events["fails 1"] == 1
    assert "left alone" not in summary


@SLOW
def test_where_the_only_cards_fail_the_run_ends_and_says_what_to_do(run_on_cards):
    began = time.monotonic()
    report, summary, faults = run_on_cards(at_start=("0", "1"))
    assert report.exit_code == 75
    assert {each["gpu"] for each in report.gpus_left_alone} == {"0", "1"}
    assert "uncorrectable ECC error encountered; look at nvidia-smi" in summary
    assert "Traceback" not in summary
    assert sum(faults.events.values()) <= 6
    assert time.monotonic() - began < 120


@SLOW
def test_where_cards_fail_at_all_work_the_run_ends_too_and_blames_no_image(run_on_cards):
    report, summary, _ = run_on_cards(at_work=("0", "1"))
    assert report.exit_code == 75
    assert (report.images, report.images_in_error) == (0, 0)
    assert {each["gpu"] for each in report.gpus_left_alone} == {"0", "1"}
    assert "units not done: 4, for example: " in summary


@SLOW
@pytest.mark.parametrize("poison", [("05.png",), ("03.png", "04.png")])
def test_an_image_that_breaks_any_card_is_quarantined_and_the_cards_go_on(run_on_cards, poison):
    report, _, _ = run_on_cards(poison=poison)
    assert report.exit_code == 3
    assert report.gpus_left_alone == []
    rows = rows_by_image(report)
    assert len(rows) == NUM_IMAGES
    in_error = {name: row["error_class"] for name, row in rows.items() if row["error_class"]}
    assert in_error == dict.fromkeys(poison, "SegmenterCrashed")
