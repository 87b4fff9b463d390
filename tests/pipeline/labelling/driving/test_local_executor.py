"""A run in children of the driver ends as one on a cluster does, whatever happens to them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from faulty_segmenters import Faults, FaultyStorage

from pipeline.labelling.driving import local_children
from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.driving.local_children import LocalChildren
from pipeline.labelling.driving.local_executor import LocalExecutor
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.run_stats import RunStats
from pipeline.table.store import images

UNIT_IMAGES = 4


@pytest.fixture
def run_in_children(tmp_path, planned_job, monkeypatch):
    """Runs the driver over twelve pictures; gives stats and rows."""
    # Children that need no torch do without.
    monkeypatch.setattr(local_children, "LIBRARIES", {"reader": (), "segmenter": ()})

    def run_in_children(
        *, deadline: float | None = None, on_progress=lambda: True, **faults: Any
    ) -> tuple[RunStats, list[dict[str, Any]], bool]:
        (tmp_path / "flags").mkdir()
        faulty = Faults(folder=tmp_path / "flags", **faults)
        plan, job = planned_job(
            faulty,
            num_images=12,
            unit_images=UNIT_IMAGES,
            storage=FaultyStorage.of(faulty),
            actors=ActorSettings(num_actors=1),
            deadline=deadline,
        )
        stats = RunStats()
        with LocalChildren() as children:
            executor = LocalExecutor(job, children=children, num_images=12)
            was_stopped = run_units(
                plan.units, job=job, stats=stats, on_progress=on_progress, executor=executor
            )
        assert children_of_this_process() == []
        has_rows = any((tmp_path / "table" / "images").glob("*.parquet"))
        return stats, images(job.table.uri).to_table().to_pylist() if has_rows else [], was_stopped

    return run_in_children


def children_of_this_process() -> list[str]:
    return [
        pid
        for pid in os.listdir("/proc")
        if pid.isdigit()
        and _parent(pid) == str(os.getpid())
        and b"local_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _parent(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1]
    except OSError:
        return ""


def test_processes_that_end_are_replaced_and_an_image_that_always_ends_them_is_named(
    run_in_children,
):
    stats, rows, was_stopped = run_in_children(always=("05.png",), once=("read 08.png",))
    assert not was_stopped
    assert stats.faults == {}
    assert [row["image_id"] for row in sorted(rows, key=lambda row: row["image_id"])] == [
        f"{n:02}.png" for n in range(12)
    ]
    errors = {row["image_id"]: row["error_class"] for row in rows if row["status"] == "error"}
    assert errors == {"05.png": "SegmenterCrashed"}
    assert (stats.units, stats.counts.images, stats.counts.errors) == (
        3, 12, {"SegmenterCrashed": 1},
    )  # fmt: skip


def test_a_run_in_children_ends_when_it_is_told_to(run_in_children):
    stats, rows, was_stopped = run_in_children(on_progress=lambda: False)
    assert was_stopped
    assert len(rows) == stats.units * UNIT_IMAGES < 12


def test_after_the_deadline_no_unit_begins(run_in_children):
    stats, rows, _ = run_in_children(deadline=time.time() - 1)
    assert (stats.units, stats.units_left, stats.faults, rows) == (0, 3, {}, [])


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_error(run_in_children):
    with pytest.raises(ValueError, match="these are no weights"):
        run_in_children(start="raise")


def test_segmenters_that_never_start_leave_units_undone_with_the_reason(
    run_in_children, monkeypatch
):
    monkeypatch.setattr("pipeline.labelling.driving.driver._PASSES", 1)
    stats, rows, _ = run_in_children(start="end")
    assert rows == []
    assert len(stats.faults) == 3
    assert all("a segmenter does not start" in fault for fault in stats.faults.values())
