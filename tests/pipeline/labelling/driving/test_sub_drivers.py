"""Groups of nodes with drivers of their own share a plan, and lose nothing when one is killed.

To be run before other tests that start Ray in the same process: a later session gives the ids of
earlier actors again.
"""

import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster
from simulated_fleet import FleetJob, WaitingFactory, drawn_units, fleet_job, image_ids
from waiting import wait_until

from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.driving.workers import LoadUnit
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import node_groups
from pipeline.runtime.run_stats import RunStats
from pipeline.table.store import images, segments

pytestmark = [pytest.mark.timeout(600), pytest.mark.faults]

ROOT = Path(__file__).parents[4]
UNIT_IMAGES = 40


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Four nodes that say that each has four GPUs: two groups of eight."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    node = {"num_cpus": 2, "num_gpus": 4, "object_store_memory": 10**8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        for _ in range(3):
            nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False)
        yield
        ray.shutdown()
        nodes.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True, kw_only=True)
class NotingFactory(WaitingFactory):
    """Builds segmenters that note on which node they work on which unit."""

    diary: str

    def __call__(self, model_files: object, *, num_threads: int | None):
        segmenter = super().__call__(model_files, num_threads=num_threads)
        node = ray.get_runtime_context().get_node_id()

        def segment(block: pa.Table) -> pa.Table:
            with open(self.diary, "a") as file:
                file.write(f"{block['unit_id'][0]} {node}\n")
            return segmenter(block)

        return segment


@dataclass(frozen=True, kw_only=True)
class NotingJob(FleetJob):
    """A job with segmenters and readers that note their nodes."""

    diary: str

    @property
    def segmenters(self) -> NotingFactory:
        return NotingFactory(images_per_second=self.images_per_second, diary=self.diary)

    def loader(self, machines: Machines, *, isolation: object) -> LoadUnit:
        load = super().loader(machines, isolation=isolation)

        def noting(unit: pa.Table) -> Iterator[pa.Table]:
            with open(self.diary, "a") as file:
                node = ray.get_runtime_context().get_node_id()
                file.write(f"{unit['unit_id'][0]} {node}\n")
            yield from load(unit)

        return noting


def fleet(folder: Path, *, images_per_second: float) -> NotingJob:
    job = fleet_job(
        str(folder / "table"),
        actors=ActorSettings(actor_gpus=4, block_images=20),
        images_per_second=images_per_second,
    )
    return NotingJob(**vars(job), diary=str(folder / "diary"))


def nodes_by_unit(diary: Path) -> dict[str, set[str]]:
    found = defaultdict(set)
    for line in diary.read_text().splitlines():
        unit_id, node = line.split(" ")
        if unit_id:  # none in the block of a ticket that came too late
            found[unit_id].add(node)
    return found


def test_each_group_works_on_its_own_nodes_and_both_do_the_plan_once(tmp_path):
    groups = node_groups()
    assert [(group.num_gpus, len(group.node_ids)) for group in groups] == [(8, 2), (8, 2)]
    units = drawn_units(16, unit_images=UNIT_IMAGES)
    job, stats = fleet(tmp_path, images_per_second=100), RunStats()

    assert not run_units(units, job=job, stats=stats, on_progress=lambda: True)

    assert stats.faults == {}
    assert (stats.units, stats.units_elsewhere) == (16, 0)
    assert stats.counts.images == 16 * UNIT_IMAGES
    assert stats.counts.segments == 10 * 16 * UNIT_IMAGES
    rows = images(job.table.uri).to_table()
    assert sorted(rows["image_id"].to_pylist()) == image_ids(units)
    assert segments(job.table.uri).count_rows() == 10 * 16 * UNIT_IMAGES
    group_of = {node: number for number, group in enumerate(groups) for node in group.node_ids}
    taken = Counter()
    for unit_id, nodes in nodes_by_unit(tmp_path / "diary").items():
        (number,) = {group_of[node] for node in nodes}  # one group read and segmented the unit
        taken[number] += 1
        assert unit_id in {unit.unit_id for unit in units}
    assert taken.total() == 16
    assert min(taken.values()) >= 2


@pytest.mark.parametrize("victim", ["SubDriver", "UnitDispenser"])
def test_what_a_killed_process_of_the_drivers_had_under_way_is_done_by_others(tmp_path, victim):
    units = drawn_units(24, unit_images=UNIT_IMAGES)
    job, stats = fleet(tmp_path, images_per_second=40), RunStats()
    killed = []

    def kill() -> None:
        wait_until(lambda: len(job.table.done_units()) >= 3, what="the third unit", seconds=300)
        victims = [p for p in descendants() if " ".join(p.cmdline()).startswith(f"ray::{victim}")]
        victims[0].kill()
        killed.append(len(job.table.done_units()))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert not run_units(units, job=job, stats=stats, on_progress=lambda: True)
    killer.join()

    assert killed
    assert killed[0] < len(units)
    assert stats.faults == {}
    assert stats.units + stats.units_elsewhere == len(units)
    assert job.table.done_units() == {unit.unit_id for unit in units}
    found = images(job.table.uri).to_table()["image_id"].to_pylist()
    assert sorted(found) == image_ids(units)
    assert segments(job.table.uri).count_rows() == 10 * len(found)


def test_a_stop_ends_all_groups_and_what_they_committed_is_counted(tmp_path):
    units = drawn_units(40, unit_images=UNIT_IMAGES)
    job, stats = fleet(tmp_path, images_per_second=40), RunStats()

    assert run_units(units, job=job, stats=stats, on_progress=lambda: stats.units < 2)

    done = job.table.done_units()
    assert 2 <= stats.units == len(done) < len(units)
    assert stats.counts.images == UNIT_IMAGES * len(done)
    assert stats.faults.keys() == {unit.unit_id for unit in units} - done


def test_the_deadline_holds_for_all_groups(tmp_path):
    units = drawn_units(8, unit_images=UNIT_IMAGES)
    job, stats = fleet(tmp_path, images_per_second=0), RunStats()
    late = type(job)(**{**vars(job), "deadline": time.time() - 1})

    assert not run_units(units, job=late, stats=stats, on_progress=lambda: True)

    assert (stats.units, stats.units_left, stats.faults) == (0, 8, {})


def descendants() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            process.cmdline()
        except psutil.Error:
            continue
        found.append(process)
    return found
