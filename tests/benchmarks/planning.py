"""Planning millions of images: seconds, CPU seconds, peak memory and requests, one JSON line.

    python tests/benchmarks/planning.py [--images 10000000] [--done_units 100000]

The listing is made up as it is asked for, single files of one prefix in thousand folders; table and
plans are real and on the disk. Each step is a process of its own: `new` plans all images and writes
the plan; `known` finds all of them done; `changed` finds one in a hundred changed; `resume` goes on
where so many units are done and a hundred are not, until the first unit is ready to be read.
Requests are what S3 would be asked: a listing takes one for each thousand objects.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from peak_memory import peak_mb
from specs import panoptic_spec

from pipeline.corpora.reading import ReadSettings
from pipeline.planning.planner import Plan, UnitSettings, plan_corpus, settle_plan
from pipeline.storage import File, Storage
from pipeline.table.store import TableStore

CORPUS = "/corpus/of/photographs"
SPEC = panoptic_spec("road")
RESUMED_UNIT_IMAGES = 10
UNDONE_UNITS = 100


class MadeUpCorpus(Storage):
    """Storage with a corpus that nobody wrote, which counts what it is asked."""

    num_images: int
    changed_every: int
    requests: int

    @classmethod
    def of(cls, num_images: int, *, changed_every: int = 0) -> "MadeUpCorpus":
        storage = cls()
        for name, value in {
            "num_images": num_images, "changed_every": changed_every, "requests": 0,
        }.items():  # fmt: skip
            object.__setattr__(storage, name, value)
        return storage

    def files(self, uri: str) -> Iterator[File]:
        count = 0
        for file in self._corpus() if uri == CORPUS else super().files(uri):
            count += 1
            yield file
        self._ask(max(1, math.ceil(count / 1000)))

    def file(self, uri: str) -> File | None:
        self._ask()
        return None if uri == CORPUS else super().file(uri)

    def read(self, uri: str, **options: Any) -> bytes:
        self._ask()
        return super().read(uri, **options)

    def write(self, uri: str, data: bytes) -> None:
        self._ask()
        super().write(uri, data)

    def _ask(self, count: int = 1) -> None:
        object.__setattr__(self, "requests", self.requests + count)

    def _corpus(self) -> Iterator[File]:
        """Lists files in the order of their paths, each with an etag like those of S3."""
        in_folder = math.ceil(self.num_images / 1000)
        for number in range(self.num_images):
            version = self.changed_every and number % self.changed_every == 0
            etag = f"{number * 0x9E3779B97F4A7C15 % 2**128 + version:032x}"
            folder = f"{CORPUS}/2026-{number // in_folder:03}"
            yield File(uri=f"{folder}/photograph-{number:09}.jpg", size=250_000, etag=etag)


def main() -> None:
    """Runs the steps one after another and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--done_units", type=int, default=100_000)
    parser.add_argument("--step", choices=["new", "known", "changed", "resume"])
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, Path(options.folder), options=options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in ("new", "known", "changed", "resume"):
            command = [
                sys.executable, __file__, f"--step={name}", f"--folder={folder}",
                f"--images={options.images}", f"--done_units={options.done_units}",
            ]  # fmt: skip
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = json.loads(ended.stdout)
            print(name, found[name], file=sys.stderr, flush=True)
    sizes = {"images": options.images, "done_units": options.done_units}
    print(json.dumps({"benchmark": "planning", **sizes, **found}))


def step(name: str, folder: Path, *, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one step."""
    if name == "resume":
        return resume(folder / "resumed", done_units=options.done_units)
    corpus = MadeUpCorpus.of(options.images, changed_every=100 if name == "changed" else 0)
    table = TableStore(str(folder / "table"), corpus)
    with Measured(corpus) as measured:
        plan = plan_listing(table, write=name == "new")
    if name == "new":
        mark_units_done(plan, table)
    return measured.found | {"units": len(plan.units), "images": plan.num_images}


def resume(folder: Path, *, done_units: int) -> dict[str, Any]:
    """Many small units, of which the last ones are not done."""
    corpus = MadeUpCorpus.of((done_units + UNDONE_UNITS) * RESUMED_UNIT_IMAGES)
    table = TableStore(str(folder), corpus)
    first = plan_listing(table, write=True, unit_images=RESUMED_UNIT_IMAGES)
    mark_units_done(first, table, leave=UNDONE_UNITS)
    with Measured(corpus) as measured:
        plan = plan_listing(table, unit_images=RESUMED_UNIT_IMAGES)
        first_unit = plan.units[0].table()
    assert (len(plan.units), len(first_unit)) == (UNDONE_UNITS, RESUMED_UNIT_IMAGES)
    return measured.found | {"units": len(plan.units), "done": plan.done}


def plan_listing(table: TableStore, *, write: bool = False, unit_images: int = 1000) -> Plan:
    def plan() -> Plan:
        return plan_corpus(
            CORPUS,
            table=table,
            spec=SPEC,
            reading=ReadSettings(),
            units=UnitSettings(unit_images=unit_images),
        )

    if not write:
        return plan()
    return settle_plan(plan(), plan_again=plan, table=table, run_id="first")


def mark_units_done(plan: Plan, table: TableStore, *, leave: int = 0) -> None:
    """Marks units as done; planning looks at the names only."""
    folder = Path(table.file("images"))
    folder.mkdir()
    for unit in plan.units[: len(plan.units) - leave]:
        (folder / f"{unit.unit_id}.parquet").touch()


class Measured:
    """Time, memory and requests of a block."""

    def __init__(self, corpus: MadeUpCorpus) -> None:
        self._corpus = corpus
        self.found: dict[str, Any] = {}

    def __enter__(self) -> "Measured":
        self._began = time.monotonic(), time.process_time(), self._corpus.requests
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu, requests = self._began
        self.found = {
            "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": peak_mb(),
            "requests": self._corpus.requests - requests,
        }


if __name__ == "__main__":
    main()
