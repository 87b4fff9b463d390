"""Driver CPU, images per second and memory on a simulated fleet of 8 and of 100 GPUs.

What is real: Ray, its nodes as processes of this machine, the driver and sub-drivers, blocks of
256 rows, units of 1,000 images, staging and commits to the local disk. What is simulated
(`simulated_fleet.py`): readers draw thumbnails of 3 kB in place of photographs; segmenters wait,
and one process stands for several GPUs, since a small machine has no room for a hundred.

Two cases are fleets whose GPUs label at a share of 1,000 images a second, for the same reason: they
show that drivers keep up (`of_what_the_gpus_allow`) and what share of a core that takes. In the
other two, segmenters do not wait: this machine is full then, and what more images take of a
driver's CPU is what an image costs at any rate. From that follows, under `extrapolated`, at how
many GPUs of 1,000 images a second a driver's core is full, which nobody measured.

Prints one JSON line.

    python tests/benchmarks/fleet.py [--units 10 60]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

UNIT_IMAGES = 1_000
BLOCK_IMAGES = 256
FULL_RATE = 1_000
BUDGET_US = 10.0
"""Of CPU an image, for the process that drives all."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fleet."""

    gpus: int
    nodes: int
    rate: float | None
    """Images a second of a GPU; None for segmenters that do not wait."""


CASES = {
    "8 GPUs of one node, two sub-drivers": Case(gpus=8, nodes=1, rate=100),
    "100 GPUs, two sub-drivers": Case(gpus=100, nodes=2, rate=8),
    "full speed, one driver": Case(gpus=6, nodes=1, rate=None),
    "full speed, one node, two sub-drivers": Case(gpus=8, nodes=1, rate=None),
    "full speed, two sub-drivers": Case(gpus=16, nodes=2, rate=None),
}
_WARM_UP_UNITS = 4
_UNITS_AT_A_RATE = 20
_PROCESSES = 2
"""Actors that stand for the GPUs, an equal share each."""


def main() -> None:
    """Measures each case in a process of its own and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, nargs=2, default=(10, 60), help="at full speed")
    parser.add_argument("--one", choices=CASES)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_case(CASES[arguments.one], units=arguments.units)))
        return
    found = {}
    for name in CASES:
        units = [str(count) for count in arguments.units]
        ran = subprocess.run(
            [sys.executable, __file__, "--one", name, "--units", *units],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            sys.exit(f"{name}: {ran.stdout[-2000:]}{ran.stderr[-3000:]}")
        found[name] = json.loads(ran.stdout.splitlines()[-1])
    print(json.dumps({"benchmark": "fleet", "cores": os.cpu_count(), "cases": found}))


def measure_case(case: Case, *, units: tuple[int, int]) -> dict[str, Any]:
    """Runs the case at its rate, or on fewer and on more units at full speed."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    node = {
        "num_cpus": 4, "num_gpus": case.gpus / case.nodes, "object_store_memory": 5 * 10**8,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(case.nodes - 1):
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory() as folder:
            # The first run starts workers, and imports what later ones have.
            label_units(case, count=_WARM_UP_UNITS, table=f"{folder}/warm-up")
            if case.rate is not None:
                return kept_up(
                    case, label_units(case, count=_UNITS_AT_A_RATE, table=f"{folder}/table")
                )
            small, large = (
                label_units(case, count=count, table=f"{folder}/{count}") for count in units
            )
            return costs(small, large)
    finally:
        ray.shutdown()
        cluster.shutdown()


def label_units(case: Case, *, count: int, table: str) -> dict[str, float]:
    """Labels so many units. Returns seconds, CPU seconds of drivers and memory of this one."""
    from simulated_fleet import drawn_units, fleet_job

    from pipeline.labelling.driving.driver import run_units
    from pipeline.runtime.actor_settings import ActorSettings
    from pipeline.runtime.run_stats import RunStats

    gpus = case.gpus / _PROCESSES
    job = fleet_job(
        table,
        actors=ActorSettings(actor_gpus=gpus, block_images=BLOCK_IMAGES),
        images_per_second=(case.rate or 0) * gpus,
    )
    stats, sampler = RunStats(), SubDriverSampler()
    drawn = drawn_units(count, unit_images=UNIT_IMAGES)
    began, cpu = time.perf_counter(), time.process_time()
    with sampler:
        run_units(drawn, job=job, stats=stats, on_progress=lambda: True)
    ended = {
        "seconds": time.perf_counter() - began,
        "driver": time.process_time() - cpu - sampler.own_seconds,
        "sub_drivers": sampler.seconds,
        "images": stats.counts.images,
        "rate": stats.images_per_second or 0.0,
        "memory_mb": psutil.Process().memory_full_info().uss / 1e6,
    }
    if stats.faults or len(job.table.done_units()) != count:
        raise RuntimeError(f"{stats.units} of {count} units are done: {stats.faults}")
    return ended


class SubDriverSampler:
    """Looks at the CPU seconds of sub-drivers now and then: their processes end with the run."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.own_seconds = 0.0

    def __enter__(self) -> "SubDriverSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return sum(self._seconds.values())

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if " ".join(process.cmdline()).startswith("ray::SubDriver"):
                        times = process.cpu_times()
                        self._seconds[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
        self.own_seconds = time.thread_time()


def kept_up(case: Case, ran: dict[str, float]) -> dict[str, Any]:
    """Returns how much of its GPUs a fleet used, and the shares of a core of its drivers."""
    assert case.rate is not None
    return {
        "simulated_gpus": case.gpus,
        "images_per_second_of_a_gpu": case.rate,
        "images_per_second": round(ran["rate"], 1),
        "of_what_the_gpus_allow": round(ran["rate"] / (case.gpus * case.rate), 2),
        "cores_of_the_driver": round(ran["driver"] / ran["seconds"], 3),
        "cores_of_sub_drivers": round(ran["sub_drivers"] / ran["seconds"], 3),
        "driver_memory_mb": round(ran["memory_mb"]),
    }


def costs(small: dict[str, float], large: dict[str, float]) -> dict[str, Any]:
    """Returns what an image costs the drivers, and how many GPUs they are enough for."""
    more = large["images"] - small["images"]
    driver, sub_drivers = (
        1e6 * (large[name] - small[name]) / more for name in ("driver", "sub_drivers")
    )
    found = {
        "images_per_second": round(large["rate"], 1),
        "driver_us_per_image": round(driver, 2),
        "driver_memory_mb": round(large["memory_mb"]),
    }
    if not large["sub_drivers"]:
        return {**found, "extrapolated": {"driver_full_at_gpus": full_at(driver)}}
    return {
        **found,
        "sub_driver_us_per_image": round(sub_drivers, 2),
        "is_within_budget": driver <= BUDGET_US,
        "extrapolated": {
            "sub_driver_full_at_gpus": full_at(sub_drivers),
            "driver_full_at_gpus": full_at(driver),
            "driver_cores_for_100_gpus": round(driver * 100 * FULL_RATE / 1e6, 2),
        },
    }


def full_at(us_per_image: float) -> float | None:
    """Returns the GPUs whose images take all of a core; None where the cost is not measurable."""
    return round(1e6 / us_per_image / FULL_RATE, 1) if us_per_image > 0 else None


if __name__ == "__main__":
    main()
