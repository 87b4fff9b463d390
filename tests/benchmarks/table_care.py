"""Verification and compaction of a table of 2,000 small units, and what queries gain.

Draws 20,000 images of 512 × 683 pixels with 13 segments each. Beside verification stands one rle at
a time through pycocotools. Prints one JSON line.

    python tests/benchmarks/table_care.py [--units 2000] [--unit_images 10]
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from pycocotools import mask as coco

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from peak_memory import peak_mb
from specs import panoptic_spec
from written_tables import plan_units, write_drawn_unit

from maskformer import encode_segments
from pipeline.maintenance.compact.compaction_plan import plan_compaction
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.maintenance.verify.tables import verify_table
from pipeline.storage import Storage
from pipeline.table.compacted import CompactedFile, read_pointer
from pipeline.table.store import TableStore, segments

SPEC = panoptic_spec(*(f"label {number}" for number in range(150)))
HEIGHT, WIDTH, SEGMENTS_PER_IMAGE, DRAWN_MAPS = 512, 683, 13, 40
LABEL_QUERY = "SELECT label, count(*), avg(score), sum(area) FROM {} GROUP BY label"
IMAGE_QUERY = "SELECT * FROM {} WHERE image_id = '{image}'"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--unit_images", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = TableStore(f"{folder}/table", Storage())
        drawn = draw(table, units=given.units, unit_images=given.unit_images)
        print(json.dumps({"benchmark": "table_care", **measure(table, drawn)}))


def measure(table: TableStore, drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures, in the order in which they are taken."""
    threads = os.cpu_count() or 1
    verify = verify_table(table, sample=1.0, num_threads=threads, most_examples=5)
    assert verify.findings.counts == {}, verify.findings
    result: dict[str, Any] = {
        "threads": threads,
        "images": verify.num_images,
        "segments": verify.num_segments,
        "units": verify.num_units,
        "verify_s": round(verify.seconds, 2),
        "verify_images_per_s": round(verify.num_images / verify.seconds),
        "verify_rles_per_s": round(verify.num_rles / verify.seconds),
        "pycocotools_rles_per_s": round(_one_at_a_time(drawn)),
        "verify_peak_mb": peak_mb(),
    }
    pattern, image = f"'{table.uri}/segments/*.parquet'", verify.num_images // 2
    name = f"{image // 10:05}/{image % 10}.jpg"
    before = queries(pattern, image=name)
    opening_before = _seconds(lambda: segments(table.uri))
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compact(table, CompactSettings(table=table.uri))
    seconds = time.perf_counter() - started
    pointer = read_pointer(table.uri, storage=table.storage)
    result |= {
        "compact_s": round(seconds, 2),
        "compact_rows_per_s": round((verify.num_segments + verify.num_images) / seconds),
        "compact_said": said.getvalue().splitlines()[0],
        "compacted_files": 2 * len(pointer.files),
        "peak_mb": peak_mb(),
    }
    after = queries(f"read_parquet({segments(table.uri).files})", image=name)
    for query in before:
        result[f"{query}_units_ms"] = round(1e3 * before[query], 1)
        result[f"{query}_compacted_ms"] = round(1e3 * after[query], 1)
        result[f"{query}_times_faster"] = round(before[query] / after[query], 1)
    result["open_units_ms"] = round(1e3 * opening_before, 1)
    result["open_compacted_ms"] = round(1e3 * _seconds(lambda: segments(table.uri)), 1)
    again = verify_table(table, sample=1.0, num_threads=threads, most_examples=5)
    assert again.findings.counts == {}, again.findings
    result["verify_both_forms_s"] = round(again.seconds, 2)
    return result | write_amplification()


def queries(rows: str, *, image: str) -> dict[str, float]:
    """Seconds of a query over all rows, and of one for an image's rows with their masks."""
    return {
        "labels": _seconds(lambda: duckdb.sql(LABEL_QUERY.format(rows)).fetchall()),
        "image": _seconds(lambda: duckdb.sql(IMAGE_QUERY.format(rows, image=image)).fetchall()),
    }


def write_amplification(nights: int = 365, night_bytes: int = 4 * 2**20) -> dict[str, Any]:
    """Divides the bytes that nightly compactions write by those that came; counts files too."""
    files: list[CompactedFile] = []
    written = 0
    for night in range(nights):
        units = {f"{night}-{number}": night_bytes // 10 for number in range(10)}
        plan = plan_compaction(units, files=files, target_bytes=2**28)
        size = sum(units.values()) + sum(file.num_bytes for file in plan.absorbed)
        written += size
        joined = CompactedFile(
            segments="", images="", num_units=0, num_images=0, num_segments=0, num_bytes=size
        )
        files = [*plan.kept, joined]
    return {
        "nights": nights,
        "nights_write_amplification": round(written / (nights * night_bytes), 2),
        "nights_files": len(files),
    }


def _one_at_a_time(drawn: list[dict[str, Any]]) -> float:
    """Area and box of each rle, and the union of an image's, as pycocotools gives them."""
    images = [
        [{"size": [HEIGHT, WIDTH], "counts": s["rle"].encode()} for s in each["segments"]]
        for each in drawn
    ]
    started = time.perf_counter()
    for rles in images:
        areas = [coco.area(rle) for rle in rles]
        for rle in rles:
            coco.toBbox(rle)
        assert coco.area(coco.merge(rles)) == sum(areas)
    return sum(map(len, images)) / (time.perf_counter() - started)


def draw(table: TableStore, *, units: int, unit_images: int) -> list[dict[str, Any]]:
    """Writes the table with its plan; the images that it repeats."""
    table.create(SPEC)
    drawn = [drawn_image(number) for number in range(DRAWN_MAPS)]
    planned = []
    for number in range(units):
        unit_id = f"{number * 2654435761 % 2**32:08x}"
        rows = []
        for position in range(unit_images):
            name = f"{number:05}/{position}.jpg"
            rows.append({
                **drawn[(number * unit_images + position) % DRAWN_MAPS], "image_id": name,
                "uri": f"/data/{name}", "etag": f"e{number}", "unit_id": unit_id,
                "position": position,
            })  # fmt: skip
        segment_rows = [
            {**segment, "image_id": row["image_id"]} for row in rows for segment in row["segments"]
        ]
        planned.append(
            write_drawn_unit(
                table, unit_id, images=rows, segments=segment_rows, metadata=SPEC.file_metadata
            )
        )
    plan_units(table, planned)
    return drawn


def drawn_image(seed: int) -> dict[str, Any]:
    """Smooth regions, as a model's masks are."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(SEGMENTS_PER_IMAGE, 9, 12))
    rows, columns = np.linspace(0, 7.999, HEIGHT), np.linspace(0, 10.999, WIDTH)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None], columns - left
    upper, lower = coarse[:, top], coarse[:, top + 1]
    fields = (1 - down) * ((1 - right) * upper[:, :, left] + right * upper[:, :, left + 1])
    fields += down * ((1 - right) * lower[:, :, left] + right * lower[:, :, left + 1])
    ids = fields.argmax(0).astype(np.int32) + 1
    shapes = encode_segments(np.unique(ids, return_inverse=True)[1].reshape(ids.shape) + 1)
    columns_of = zip(shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True)
    found = [
        {
            "segment_id": number, "label_id": label, "label": SPEC.labels[label], "is_thing": True,
            "score": 0.75, "area": area, "bbox_x": x, "bbox_y": y, "bbox_w": w, "bbox_h": h,
            "height": HEIGHT, "width": WIDTH, "rle": rle,
        }
        for number, (area, (x, y, w, h), rle) in enumerate(columns_of, 1)
        for label in [int(random.integers(150))]
    ]  # fmt: skip
    return {
        "height": HEIGHT, "width": WIDTH, "status": "ok", "num_segments": len(found),
        "coverage": 1.0, "mean_score": 0.75, "segments": found,
    }  # fmt: skip


def _seconds(call: Callable[[], object], *, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
