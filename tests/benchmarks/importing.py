"""Import of COCO instances against pycocotools' load of the same file, and memory by images.

Draws a table of images of 480 × 640 pixels, exports it to COCO's instances, changes the label of
some segments by hand, and imports the file. Both sides are timed without loading libraries, in CPU
seconds of all threads, so that other work on the machine does not count. Memory is that of a
process of its own, with 10,000 and with 100,000 images. Prints one JSON line.

    python tests/benchmarks/importing.py [--segments 100000] [--images 10000 100000]
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from peak_memory import peak_mb
from specs import panoptic_spec
from written_tables import plan_units, write_drawn_unit

from maskformer import encode_segments
from pipeline.storage import Storage
from pipeline.table.store import TableStore

SPEC = panoptic_spec(*(f"label {number}" for number in range(150)))
HEIGHT, WIDTH, UNIT_IMAGES, DRAWN_MAPS = 480, 640, 500, 40
MOST_TIMES = 3.0
MOST_GROWTH_MB = 100
CHANGED_EVERY = 1000
"""One image of so many has a segment with another label."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--import_one", help="Import this file and print the memory.")
    parser.add_argument("--table")
    given = parser.parse_args()
    if given.import_one:
        print(json.dumps(import_one(given.import_one, table=given.table)))
        return
    result: dict[str, Any] = {"benchmark": "importing"}
    with tempfile.TemporaryDirectory() as folder:
        first = given.images[0]
        tables = [("time", first, max(1, given.segments // first))]
        tables += [("memory", images, 1) for images in given.images]
        for what, images, per_image in tables:
            place = Path(folder, f"{what}-{images}")
            num_segments = draw_import_table(f"{place}/table", images=images, per_image=per_image)
            file = export_with_changes(f"{place}/table", place / "coco")
            found = import_in_own_process(file, table=f"{place}/table")
            if what == "time":
                found["pycocotools_cpu_s"] = pycocotools_seconds(file)
                times = found["import_cpu_s"] / found["pycocotools_cpu_s"]
                found["times_pycocotools"] = round(times, 2)
            result[f"{what}_{images}_images"] = {
                "segments": num_segments,
                "file_mb": round(file.stat().st_size / 2**20, 1),
                **found,
            }
    print(json.dumps(result))
    few, many = (result[f"memory_{images}_images"] for images in given.images)
    assert many["peak_mb"] - few["peak_mb"] <= MOST_GROWTH_MB, result
    assert result[f"time_{first}_images"]["times_pycocotools"] <= MOST_TIMES, result


def draw_import_table(place: str, *, images: int, per_image: int) -> int:
    """Writes a table; returns its number of segments."""
    table = TableStore(place, Storage())
    table.create(SPEC)
    drawn = [draw_ellipses(number, per_image) for number in range(DRAWN_MAPS)]
    units, total = [], 0
    for first in range(0, images, UNIT_IMAGES):
        unit_id = f"{first:08}"
        rows: list[dict[str, Any]] = []
        segments: list[dict[str, Any]] = []
        for image in range(first, min(images, first + UNIT_IMAGES)):
            name = f"{image:08}.jpg"
            shapes = drawn[image % DRAWN_MAPS]
            segments += [{"image_id": name, **each} for each in shapes]
            rows.append(
                {
                    "image_id": name, "uri": f"/photos/{name}", "etag": f"e{image}",
                    "unit_id": unit_id, "position": image - first, "height": HEIGHT,
                    "width": WIDTH, "status": "ok", "num_segments": len(shapes),
                    "coverage": 0.5, "mean_score": 0.9,
                }
            )  # fmt: skip
        total += len(segments)
        unit = write_drawn_unit(
            table, unit_id, images=rows, segments=segments, metadata=SPEC.file_metadata
        )
        units.append(unit)
    plan_units(table, units)
    return total


def draw_ellipses(number: int, per_image: int) -> list[dict[str, Any]]:
    """Draws rows of segments: ellipses over each other, as many as are visible."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    for segment in range(1, per_image + 1):
        cy, cx = random.integers(0, HEIGHT), random.integers(0, WIDTH)
        ry, rx = random.integers(20, 120, 2)
        ids[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = segment
    shapes = encode_segments(ids)
    return [
        {
            "segment_id": i, "label_id": i % 150, "label": f"label {i % 150}", "is_thing": True,
            "score": 0.9, "area": area, "bbox_x": bx, "bbox_y": by, "bbox_w": bw, "bbox_h": bh,
            "height": HEIGHT, "width": WIDTH, "rle": rle,
        }
        for i, (area, (bx, by, bw, bh), rle) in enumerate(
            zip(shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True), 1
        )
    ]  # fmt: skip


def export_with_changes(table: str, out: Path) -> Path:
    """Exports the table and changes the label of a segment in some images of the file."""
    from pipeline.cli.__main__ import main as maskformer

    words = ["--format", "coco_instances", "--images", "none", "--shard_images", "1000000"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert maskformer(["export", table, str(out), *words]) == 0
    file = out / "annotations/instances_default.json"
    changed: set[int] = set()
    lines = file.read_text().splitlines(keepends=True)
    for at, line in enumerate(lines):
        if line.startswith('{"id": ') and '"category_id"' in line:
            image = json.loads(line.rstrip(",\n"))["image_id"]
            if image % CHANGED_EVERY == 0 and image not in changed:
                changed.add(image)
                lines[at] = line.replace('"category_id": 2,', '"category_id": 150,')
    file.write_text("".join(lines))
    return file


def import_in_own_process(file: Path, *, table: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--import_one", str(file), "--table", table]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def import_one(file: str, *, table: str) -> dict[str, Any]:
    """Imports a file twice: with changes, and when they are there."""
    from pipeline.cli.__main__ import main as maskformer
    from pipeline.exchange.importing import run  # noqa: F401  loads the libraries

    encode_segments(np.zeros((2, 2), np.int32))
    seconds, wall = [], []
    for _ in range(2):
        started, started_wall = time.process_time(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            words = ["--format", "coco_instances", "--table", table, "--reviewer", "bench"]
            assert maskformer(["import", file, *words]) == 0
        seconds.append(round(time.process_time() - started, 2))
        wall.append(round(time.perf_counter() - started_wall, 2))
    return {
        "import_cpu_s": seconds[0],
        "again_cpu_s": seconds[1],
        "wall_s": wall,
        "said": said.getvalue().splitlines()[1],
        "peak_mb": peak_mb(),
        "threads": os.cpu_count(),
    }


def pycocotools_seconds(file: Path) -> float:
    """Returns CPU seconds that pycocotools needs to load a file; the best of three."""
    from pycocotools.coco import COCO

    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            COCO(str(file))
        best = min(best, time.process_time() - started)
    return round(best, 2)


if __name__ == "__main__":
    main()
