"""Export of 100,000 segments to COCO's instances, beside what pycocotools needs to load the JSON.

Draws images of 512 × 683 pixels with 13 segments each, in units of 1,000. Both sides are timed in
CPU seconds of all threads, so that other work on the machine does not count. Memory is that of a
process that exports 10,000 and 100,000 images with 3 segments each. Prints one JSON line.

    python tests/benchmarks/exporting.py [--segments 100000] [--most_images 100000]
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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from table_care import SEGMENTS_PER_IMAGE, SPEC
from table_care import draw as draw_units
from written_tables import plan_units

from pipeline.storage import Storage
from pipeline.table.store import TableStore, parquet_options
from pipeline.table.units import Unit

UNIT_IMAGES = 1000
MOST_TIMES = 3.0
MOST_GROWTH_MB = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--most_images", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = TableStore(f"{folder}/base", Storage())
        draw_units(base, units=1, unit_images=UNIT_IMAGES)
        units = -(-given.segments // (SEGMENTS_PER_IMAGE * UNIT_IMAGES))
        result = exporting_speed(repeat(base, f"{folder}/table", units=units), Path(folder))
        for images in (given.most_images // 10, given.most_images):
            units = images // UNIT_IMAGES
            table = repeat(base, f"{folder}/{images}", units=units, image_segments=3)
            result |= {f"peak_mb_{images}": export_peak_mb(table, f"{folder}/of-{images}")}
    print(json.dumps({"benchmark": "exporting", **result}))
    few, many = (result[f"peak_mb_{n}"] for n in (given.most_images // 10, given.most_images))
    assert result["times_of_loading"] <= MOST_TIMES, result
    assert many - few <= MOST_GROWTH_MB, result


def exporting_speed(table: TableStore, folder: Path) -> dict[str, Any]:
    """CPU seconds of an export, beside those of loading it."""
    from pycocotools.coco import COCO

    seconds = _exporting(table.uri, f"{folder}/out")
    place = folder / "out/annotations/instances_default.json"
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        content = COCO(str(place))
    loading = time.process_time() - started
    return {
        "images": len(content.imgs),
        "segments": len(content.anns),
        "json_mb": round(place.stat().st_size / 1e6, 1),
        "export_cpu_s": round(seconds, 2),
        "segments_per_cpu_s": round(len(content.anns) / seconds),
        "pycocotools_load_cpu_s": round(loading, 2),
        "times_of_loading": round(seconds / loading, 2),
    }


def _exporting(table: str, output: str) -> float:
    from pipeline.corpora.settings import ReadSettings
    from pipeline.exchange.exporting.run import export
    from pipeline.exchange.settings import ExportSettings

    settings = ExportSettings(table=table, output=output, format="coco_instances", images="none")
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        export(settings, storage=Storage(), reading=ReadSettings())
    return time.process_time() - started


def export_peak_mb(table: TableStore, output: str) -> int:
    """The most memory of a process that exports a table."""
    code = (
        "import sys; sys.path.append('tests/benchmarks'); from peak_memory import peak_mb; "
        "from pipeline.cli.running import run_job; "
        "code = run_job('export', sys.argv[1:]); print(peak_mb()); sys.exit(code)"
    )
    words = [table.uri, output, "--format", "coco_instances", "--images", "none"]
    said = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT, check=True, capture_output=True, text=True, env={**os.environ},
    ).stdout  # fmt: skip
    return int(said.split()[-1])


def repeat(
    base: TableStore, place: str, *, units: int, image_segments: int = SEGMENTS_PER_IMAGE
) -> TableStore:
    """A table whose units are another one's only unit, under other names."""
    table = TableStore(place, Storage())
    table.create(SPEC)
    (name,) = base.unit_files("images")
    for number in range(units):
        unit_id = f"{number * 2654435761 % 2**32:08x}"
        for part in ("segments", "images"):
            rows = pq.read_table(base.file(part, f"{name}.parquet"))
            if part == "segments":
                rows = rows.filter(pc.less_equal(rows["segment_id"], image_segments))
            ids = pc.binary_join_element_wise(f"{number:05}", rows["image_id"], "/")
            rows = rows.set_column(0, "image_id", ids)
            if part == "images":
                index = rows.schema.names.index("unit_id")
                rows = rows.set_column(index, "unit_id", pa.repeat(unit_id, len(rows)))
            path = Path(table.file(part, f"{unit_id}.parquet"))
            path.parent.mkdir(exist_ok=True)
            pq.write_table(rows, path, **parquet_options(rows.schema))
    names = [f"{number * 2654435761 % 2**32:08x}" for number in range(units)]
    plan_units(table, [Unit(unit_id=each, sources=()) for each in names])
    return table


if __name__ == "__main__":
    main()
