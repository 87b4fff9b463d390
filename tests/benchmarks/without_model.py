"""The whole labelling pipeline with a segmenter that costs nothing, of one checkout or of two.

Tars of photographs are read, decoded, moved to actors, staged and committed, as beside one GPU,
which Ray is told that there is. What a run takes more for more images, in CPU seconds of all its
processes, is what an image costs: unlike images per second it hardly depends on what else runs on
the machine. Prints one JSON line, with the CPU milliseconds of an image by kind of process. Two
checkouts take turns.

    python tests/benchmarks/without_model.py [--other CHECKOUT] [--shared ../shared] [--rounds 2]
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1_000, 4_000)
SHARD_IMAGES = 1_000
CORES = 2


def main() -> None:
    """Measures the checkouts in turn and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="a second checkout, to compare with")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("CORPUS", "TABLE"), help="of this PYTHONPATH")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(label_without_model(*arguments.one)))
        return
    checkouts = [ROOT, *([arguments.other.resolve()] if arguments.other else [])]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        corpora = {
            count: repeat_photographs(Path(name), count, arguments.shared) for count in SIZES
        }
        for number in range(arguments.rounds):
            for checkout in checkouts:
                runs = [
                    run_in(
                        checkout, corpora[count], Path(name, f"{number}-{checkout.name}-{count}")
                    )
                    for count in SIZES
                ]
                found[str(checkout)].append(milliseconds_an_image(*runs))
    results = [summary(rounds) for rounds in found.values()]
    line: dict[str, Any] = {"benchmark": "without_model", "cores": CORES, "this": results[0]}
    if arguments.other:
        line |= {
            "other": results[1],
            "this_over_other": round(
                results[0]["images_per_core_second"] / results[1]["images_per_core_second"], 2
            ),
        }
    print(json.dumps(line))


def repeat_photographs(folder: Path, count: int, shared: Path) -> Path:
    """Writes photographs again and again, so many in all, into tars."""
    # Imported here because processes that measure another checkout import that one's code.
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from photographs import write_photographs

    paths = write_photographs(folder / f"photographs-{count}", shared=shared)
    photographs = [path.read_bytes() for path in paths]
    corpus = folder / f"corpus-{count}"
    corpus.mkdir()
    for shard in range(count // SHARD_IMAGES):
        with tarfile.open(corpus / f"{shard:04}.tar", "w") as output:
            for number in range(SHARD_IMAGES):
                member = tarfile.TarInfo(f"{number:06}.jpg")
                data = photographs[number % len(photographs)]
                member.size = len(data)
                path = folder / "photograph.jpg"
                path.write_bytes(data)
                with open(path, "rb") as file:
                    output.addfile(member, file)
    return corpus


def run_in(checkout: Path, corpus: Path, table: Path) -> dict[str, Any]:
    """Runs this program on the code of a checkout, and counts the seconds of its processes."""
    path = os.pathsep.join([str(checkout), str(ROOT / "tests")])
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(
            [sys.executable, __file__, "--one", str(corpus), str(table)],
            env={**os.environ, "PYTHONPATH": path}, cwd=checkout,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds: dict[int, tuple[str, float]] = {}
        while process.poll() is None:
            for each in process_tree(process):
                with contextlib.suppress(psutil.Error, KeyError):
                    times = each.cpu_times()
                    # A process that ends has no title any more.
                    kind = kind_of(each, process) or seconds[each.pid][0]
                    seconds[each.pid] = (kind, times.user + times.system)
            time.sleep(0.2)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{checkout}: {text[-3000:]}")
    cpu: dict[str, float] = defaultdict(float)
    for kind, spent in seconds.values():
        cpu[kind] += spent
    return {**json.loads(text.splitlines()[-1]), "cpu": cpu}


def process_tree(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def kind_of(process: psutil.Process, driver: psutil.Process) -> str | None:
    title = " ".join(process.cmdline())
    if process.pid == driver.pid:
        return "driver"
    if not title:
        return None
    if "MapWorker" in title:
        return "actor"
    return "tasks" if title.startswith("ray::") else "ray"


def label_without_model(corpus: str, table: str) -> dict[str, Any]:
    """Labels a corpus, and returns the seconds of its processes."""
    import ray
    from free_segmenter import FreeFactory
    from specs import panoptic_spec

    from maskformer import MaskFormerImageProcessor
    from pipeline.corpora.reading import ReadSettings
    from pipeline.labelling.driving.driver import run_units
    from pipeline.labelling.driving.labelling_job import LabellingJob
    from pipeline.labelling.settings import SegmentSettings
    from pipeline.planning.planner import UnitSettings, plan_corpus
    from pipeline.runtime.actor_settings import ActorSettings
    from pipeline.runtime.run_stats import RunStats
    from pipeline.storage import Storage
    from pipeline.table.store import TableStore

    class FreeJob(LabellingJob):
        @property
        def segmenters(self) -> FreeFactory:
            return FreeFactory()

    spec, reading = panoptic_spec("road", "sky"), ReadSettings()
    store = TableStore(table, Storage())
    store.create(spec)
    plan = plan_corpus(corpus, table=store, spec=spec, reading=reading, units=UnitSettings())
    job = FreeJob(
        table=store,
        spec=spec,
        run_id="run",
        reading=reading,
        segmenting=SegmentSettings(),
        actors=ActorSettings(),
        processor=MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 1333}),
        model_files={},
    )
    ray.init(
        address="local", _node_ip_address="127.0.0.1", include_dashboard=False,
        num_cpus=CORES, num_gpus=1, log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    stats = RunStats()
    began = time.perf_counter()
    run_units(plan.units, job=job, stats=stats, on_progress=lambda: True)
    seconds = time.perf_counter() - began
    if stats.faults or stats.counts.num_errors:
        raise RuntimeError(f"{stats.faults} {stats.counts.errors}")
    return {"images": stats.counts.images, "wall": seconds}


def milliseconds_an_image(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """Returns milliseconds of an image, from what the larger run took more."""
    more = large["images"] - small["images"]
    cpu = {
        kind: 1e3 * (large["cpu"].get(kind, 0) - small["cpu"].get(kind, 0)) / more
        for kind in large["cpu"]
    }
    return {"wall": 1e3 * (large["wall"] - small["wall"]) / more, "cpu": cpu}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(rounds, key=lambda each: sum(each["cpu"].values()))
    total = [sum(each["cpu"].values()) for each in rounds]
    return {
        "images_per_core_second": round(1e3 / min(total), 1),
        "images_per_core_second_median": round(1e3 / statistics.median(total), 1),
        "images_per_second": round(1e3 / min(each["wall"] for each in rounds), 1),
        "cpu_ms_per_image": {kind: round(ms, 2) for kind, ms in sorted(best["cpu"].items())},
    }


if __name__ == "__main__":
    main()
