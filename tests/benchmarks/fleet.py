"""Driver CPU, images per second and memory on a simulated fleet of 8 and of 100 GPUs.

What is real: Ray, its nodes as processes of this machine, the driver and sub-drivers, blocks of
256 rows, units of 1,000 images, staging and commits to the local disk. What is simulated
(`simulated_fleet.py`): readers draw thumbnails of 3 kB in place of photographs; segmenters wait,
and one process stands for several GPUs, since a small machine has no room for a hundred; each GPU
labels at a share of 1,000 images a second, for the same reason. The CPU of a driver per image does
not depend on the rate, as long as the driver keeps up: the figures for 1,000 images a second are
this CPU times the rate, and stand under `extrapolated`.

Each case runs twice, on fewer and on more units: what the second takes more is what an image costs.
Prints one JSON line. `breaks_at` is the number of GPUs of 1,000 images a second at which a driver's
core is busy all the time; the case `full speed` has segmenters that do not wait, and shows what
this machine can do in all.

    python tests/benchmarks/fleet.py [--rate 50] [--units 8 40]
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
    processes: int
    """Actors that stand for the GPUs, an equal share each."""
    waits: bool = True


CASES = {
    "8 GPUs, one driver": Case(gpus=8, nodes=1, processes=2),
    "100 GPUs, two sub-drivers": Case(gpus=100, nodes=2, processes=2),
    "full speed, one driver": Case(gpus=8, nodes=1, processes=2, waits=False),
}


def main() -> None:
    """Measures each case in a process of its own and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50, help="images a second of a GPU")
    parser.add_argument("--units", type=int, nargs=2, default=(8, 40))
    parser.add_argument("--one", choices=CASES)
    arguments = parser.parse_args()
    if arguments.one:
        case = CASES[arguments.one]
        print(json.dumps(measured(case, rate=arguments.rate, units=arguments.units)))
        return
    found = {}
    for name in CASES:
        command = [sys.executable, __file__, "--one", name, "--rate", str(arguments.rate)]
        units = [str(count) for count in arguments.units]
        ran = subprocess.run(
            [*command, "--units", *units], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            sys.exit(f"{name}: {ran.stdout[-2000:]}{ran.stderr[-3000:]}")
        found[name] = json.loads(ran.stdout.splitlines()[-1])
    print(json.dumps({"benchmark": "fleet", "cores": os.cpu_count(), "cases": found}))


def measured(case: Case, *, rate: float, units: tuple[int, int]) -> dict[str, Any]:
    """Runs the case on fewer and on more units."""
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
            runs = [
                run(case, rate=rate, count=count, table=f"{folder}/{count}-{number}")
                for number, count in enumerate(units)
            ]
    finally:
        ray.shutdown()
        cluster.shutdown()
    return costs(case, *runs, rate=rate)


def run(case: Case, *, rate: float, count: int, table: str) -> dict[str, float]:
    """Labels so many units. Returns seconds, CPU seconds of drivers and memory of this one."""
    from simulated_fleet import drawn_units, fleet_job

    from pipeline.labelling.driver import run_units
    from pipeline.runtime.actor_settings import ActorSettings
    from pipeline.runtime.run_stats import RunStats

    gpus = case.gpus / case.processes
    job = fleet_job(
        table,
        actors=ActorSettings(actor_gpus=gpus, block_images=BLOCK_IMAGES),
        images_per_second=rate * gpus if case.waits else 0,
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


def costs(
    case: Case, small: dict[str, float], large: dict[str, float], *, rate: float
) -> dict[str, Any]:
    """Returns what an image costs, and how many GPUs that is enough for."""
    more = large["images"] - small["images"]
    top = 1e6 * (large["driver"] - small["driver"]) / more
    sub = 1e6 * (large["sub_drivers"] - small["sub_drivers"]) / more
    scheduling = sub or top  # the driver that runs Ray Data
    return {
        "simulated_gpus": case.gpus,
        "images_per_second_of_a_gpu": rate if case.waits else None,
        "images_per_second": round(large["rate"], 1),
        "of_what_the_gpus_allow": round(large["rate"] / (case.gpus * rate), 2)
        if case.waits
        else None,
        "top_driver_us_per_image": round(top, 2),
        "sub_driver_us_per_image": round(sub, 2) if sub else None,
        "memory_mb": round(large["memory_mb"]),
        "extrapolated": {
            "breaks_at_gpus_of_one_scheduling_driver": round(1e6 / scheduling / FULL_RATE, 1),
            "breaks_at_gpus_of_the_top_driver": round(1e6 / top / FULL_RATE, 1) if sub else None,
            "top_driver_cores_for_100_gpus": round(top * 100 * FULL_RATE / 1e6, 2) if sub else None,
            "top_driver_within_budget": top <= BUDGET_US if sub else None,
        },
    }


if __name__ == "__main__":
    main()
