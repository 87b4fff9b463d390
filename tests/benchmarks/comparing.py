"""Comparison of two tables of 100,000 segments, beside pycocotools; and memory at ten times more.

Draws tables of images of 512 × 683 pixels with 13 segments each; the second one has other maps for
a third of the images. CPU seconds of all threads stand beside those that pycocotools needs to load
the segments of both tables from COCO JSON, and to match them (IoU of each image's masks). Memory is
the largest resident set of a process that compares 10,000 and 100,000 images. Prints one JSON line.

    python tests/benchmarks/comparing.py [--images 7700] [--no_memory]
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from peak_memory import peak_mb
from table_care import DRAWN_MAPS, SPEC, drawn_image

from pipeline.comparison.run import compare
from pipeline.comparison.settings import CompareSettings
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, parquet_options

UNIT_IMAGES = 1000
MOST_TIMES = 3.0
MOST_GROWTH_MB = 100


def main() -> None:
    """Measure and print; with --compare, be the process whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=7700)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--compare", nargs=3)
    given = parser.parse_args()
    if given.compare:
        print(json.dumps(compared(*given.compare)))
        return
    with tempfile.TemporaryDirectory() as name:
        result = {"benchmark": "comparing", **comparing_speed(Path(name), images=given.images)}
        if not given.no_memory:
            result |= memory(Path(name))
        print(json.dumps(result))
        assert result["compare_over_load"] <= MOST_TIMES, result
        assert result.get("growth_mb", 0) <= MOST_GROWTH_MB, result


def comparing_speed(folder: Path, *, images: int) -> dict[str, Any]:
    """CPU seconds of a comparison, and of pycocotools."""
    tables = [
        draw_table_side(folder / f"{side}-{images}", images=images, side=side) for side in (0, 1)
    ]
    compare_in_own_process(*tables, str(folder / "warm"))  # compiles what is compiled once
    ours = compare_in_own_process(*tables, str(folder / "out"))
    files = [
        write_annotations(folder / f"{side}.json", images=images, side=side) for side in (0, 1)
    ]
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = [COCO(str(file)) for file in files]
    load = time.process_time() - started
    started = time.process_time()
    for image in range(images):
        rles = [
            [each["segmentation"] for each in side.loadAnns(side.getAnnIds(imgIds=[image]))]
            for side in loaded
        ]
        coco.iou(*rles, [0] * len(rles[1]))
    match = time.process_time() - started
    return {
        "images": images,
        "segments": images * 13,
        "compare_cpu_s": round(ours["seconds"], 2),
        "pycocotools_load_cpu_s": round(load, 2),
        "pycocotools_load_and_iou_cpu_s": round(load + match, 2),
        "compare_over_load": round(ours["seconds"] / load, 2),
        "compare_over_load_and_iou": round(ours["seconds"] / (load + match), 2),
        "segments_per_cpu_s": round(2 * images * 13 / ours["seconds"]),
    }


def memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a process that compares 10,000 and 100,000 images."""
    peaks = {}
    for images in (10_000, 100_000):
        tables = [
            draw_table_side(folder / f"{side}-{images}", images=images, side=side)
            for side in (0, 1)
        ]
        found = compare_in_own_process(*tables, str(folder / f"out-{images}"))
        peaks[images] = found["peak_mb"]
    return {"peak_mb": peaks, "growth_mb": peaks[100_000] - peaks[10_000]}


def compare_in_own_process(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--compare", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compared(table_a: str, table_b: str, output: str) -> dict[str, Any]:
    """Compares, without pictures: the photographs are not there."""
    started = time.process_time()
    compare(
        TableStore(table_a, Storage()),
        TableStore(table_b, Storage()),
        settings=CompareSettings(table_a=table_a, table_b=table_b, output=output, worst=0),
    )
    seconds = time.process_time() - started
    return {"seconds": seconds, "peak_mb": peak_mb()}


def map_number(image: int, *, side: int) -> int:
    """Returns which of the drawn maps an image has."""
    changes = side == 1 and image % 3 == 0
    return (image + changes) % DRAWN_MAPS


def draw_table_side(folder: Path, *, images: int, side: int) -> str:
    """Writes a table."""
    table = TableStore(str(folder), Storage())
    table.create(SPEC)
    drawn = [drawn_image(number) for number in range(DRAWN_MAPS)]
    segments = [pa.Table.from_pylist(each["segments"], schema=SEGMENTS) for each in drawn]
    for begin in range(0, images, UNIT_IMAGES):
        numbers = range(begin, min(images, begin + UNIT_IMAGES))
        unit_id = f"{begin:08}"
        rows = [
            {
                **drawn[map_number(number, side=side)], "image_id": f"{number:08}.jpg",
                "uri": f"/data/{number:08}.jpg", "etag": "e", "unit_id": unit_id,
                "position": number - begin,
            }
            for number in numbers
        ]  # fmt: skip
        parts = [segments[map_number(number, side=side)] for number in numbers]
        names = [
            f"{n:08}.jpg" for n, part in zip(numbers, parts, strict=True) for _ in part["label"]
        ]
        own = pa.concat_tables(parts).set_column(0, SEGMENTS.field(0), pa.array(names))
        for part, schema, content in (
            ("segments", SEGMENTS, own),
            ("images", IMAGES, pa.Table.from_pylist(rows, schema=IMAGES)),
        ):
            path = Path(table.file(part, f"{unit_id}.parquet"))
            path.parent.mkdir(exist_ok=True, parents=True)
            schema = schema.with_metadata({**SPEC.file_metadata, "unit_id": unit_id})
            pq.write_table(content.cast(schema), path, **parquet_options(schema))
    return table.uri


def write_annotations(file: Path, *, images: int, side: int) -> Path:
    """Writes the segments as COCO JSON."""
    drawn = [drawn_image(number) for number in range(DRAWN_MAPS)]
    found = [
        {
            "id": image * 13 + place + 1,
            "image_id": image,
            "category_id": segment["label_id"] + 1,
            "iscrowd": 0,
            "area": segment["area"],
            "bbox": [segment[f"bbox_{each}"] for each in "xywh"],
            "segmentation": {
                "size": [segment["height"], segment["width"]],
                "counts": segment["rle"],
            },
        }
        for image in range(images)
        for place, segment in enumerate(drawn[map_number(image, side=side)]["segments"])
    ]
    said = {
        "images": [{"id": image} for image in range(images)],
        "annotations": found,
        "categories": [{"id": number + 1} for number in range(len(SPEC.labels))],
    }
    file.write_text(json.dumps(said))
    return file


if __name__ == "__main__":
    main()
