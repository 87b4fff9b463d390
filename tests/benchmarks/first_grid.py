"""Time and memory of a page's server until the first grid: 100,000 images, a million segments.

Starts the real command on a table that it draws, and asks as a browser does: the address with the
token, the table, the first hundred images; then thumbnails of forty of them and queries with other
orders and filters. Prints one JSON line; times in seconds, from the start of the process.

    python tests/benchmarks/first_grid.py [--images 100000] [--segments 10]
"""

import argparse
import http.client
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore, parquet_options

SPEC = panoptic_spec(*(f"label {number}" for number in range(133)))
HEIGHT, WIDTH, UNIT_IMAGES = 480, 640, 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--segments", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = draw_grid_table(f"{folder}/table", images=given.images, segments=given.segments)
        print(json.dumps(measure_first_grid(table, images=given.images)))


def measure_first_grid(table: str, *, images: int) -> dict[str, Any]:
    """Starts the command, asks for what a first screen needs, and ends it."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "review", table, "--no_open", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        page = Page(process.stdout.readline().split()[-1])
        result: dict[str, Any] = {"listening": time.monotonic() - began}
        about = json.loads(page.get("/api/table"))
        listed = json.loads(page.get("/api/images?limit=100"))
        assert listed["total"] == about["images"] == images, listed["total"]
        result["first_grid"] = time.monotonic() - began
        used = psutil.Process(process.pid).cpu_times()
        result["cpu_seconds_of_first_grid"] = used.user + used.system
        result["memory_mb"] = memory_mb(process.pid)
        names = [quote(image["image_id"]) for image in listed["images"][:40]]
        started = time.monotonic()
        with ThreadPoolExecutor(6) as browser:  # as many connections as browsers open
            for data in browser.map(Page(page.address).thumbnail, names):
                assert data[:2] == b"\xff\xd8"
        result["forty_thumbnails"] = time.monotonic() - started
        result["memory_with_thumbnails_mb"] = memory_mb(process.pid)
        for name, query in QUERIES.items():
            started = time.monotonic()
            page.get(f"/api/images?{query}&limit=100")
            result[name] = time.monotonic() - started
        return {name: round(value, 3) for name, value in result.items()}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


QUERIES = {
    "sort_by_strangeness": "sort=strangeness&descending=1",
    "filter_by_label_and_score": "label=7&max_score=0.4&sort=mean_score",
    "last_page": "sort=coverage&offset=99900",
    "filter_by_status": "status=unreviewed",
}


class Page:
    """A browser that has opened the printed address."""

    def __init__(self, address: str) -> None:
        self.address = address
        parts = urlsplit(address)
        self._host = parts.netloc
        self._cookie = ""
        connection = http.client.HTTPConnection(self._host)
        connection.request("GET", f"/?{parts.query}")
        response = connection.getresponse()
        response.read()
        self._cookie = response.headers["Set-Cookie"].split(";")[0]

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self._host, timeout=120)
        connection.request("GET", path, headers={"Cookie": self._cookie})
        response = connection.getresponse()
        data = response.read()
        assert response.status == 200, data[:500]
        return data

    def thumbnail(self, image_id: str) -> bytes:
        return self.get(f"/api/thumbnail?image_id={image_id}&overlay=1&size=256")


def memory_mb(pid: int) -> float:
    """Returns the memory of a process and its children, shared pages counted once."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.memory_full_info().pss for each in processes) / 1e6


def draw_grid_table(place: str, *, images: int, segments: int) -> str:
    """Writes a table of units of a thousand images, whose photographs are eight files."""
    table = TableStore(place, Storage())
    table.create(SPEC)
    shapes = drawn_shapes(segments)
    photos = [f"{place}-photos/{number}.jpg" for number in range(8)]
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
    for number, photo in enumerate(photos):
        buffer = io.BytesIO()
        picture = Image.fromarray(np.roll(pixels, number, 0)).resize((WIDTH, HEIGHT))
        picture.save(buffer, "JPEG", quality=90)
        table.storage.write(photo, buffer.getvalue())
    etags = [table.storage.file(photo).etag for photo in photos]  # type: ignore[union-attr]
    for unit, first in enumerate(range(0, images, UNIT_IMAGES)):
        count = min(UNIT_IMAGES, images - first)
        for part, rows in unit_tables(
            f"{unit:016x}", first, count, segments=segments, shapes=shapes, photos=photos,
            etags=etags, random=random,
        ):  # fmt: skip
            buffer = io.BytesIO()
            pq.write_table(rows, buffer, row_group_size=2000, **parquet_options(rows.schema))
            table.storage.write(table.file(part, f"{unit:016x}.parquet"), buffer.getvalue())
    return table.uri


def unit_tables(
    unit: str,
    first: int,
    count: int,
    *,
    segments: int,
    shapes: Any,
    photos: list[str],
    etags: list[str],
    random: np.random.Generator,
) -> Iterator[tuple[str, pa.Table]]:
    """Yields the two files of a unit."""
    names = [
        f"2026/camera-{n % 7}/{n * 7919 % 10**8:08}-{n}.jpg" for n in range(first, first + count)
    ]
    scores = random.beta(8, 2, (count, segments)).astype(np.float32)
    labels = np.minimum(random.geometric(0.05, (count, segments)) - 1, len(SPEC.labels) - 1)
    many = count * segments
    boxes = np.tile(shapes.boxes_xywh, (count, 1))
    yield (
        "segments",
        pa.table(
            {
                "image_id": np.repeat(np.array(names, object), segments),
                "segment_id": np.tile(np.arange(1, segments + 1), count),
                "label_id": labels.ravel(),
                "label": np.array(SPEC.labels, object)[labels.ravel()],
                "is_thing": np.ones(many, np.bool_),
                "score": scores.ravel(),
                "area": np.tile(shapes.areas, count),
                **{f"bbox_{side}": boxes[:, at] for at, side in enumerate("xywh")},
                "height": np.full(many, HEIGHT),
                "width": np.full(many, WIDTH),
                "rle": np.tile(np.array(shapes.rles, object), count),
            },
            schema=SEGMENTS.empty_table().select([*SCHEMA_1]).schema,
        ),
    )
    yield (
        "images",
        pa.table(
            {
                "image_id": names,
                "uri": [photos[n % len(photos)] for n in range(count)],
                "member": pa.nulls(count, pa.string()),
                "etag": [etags[n % len(photos)] for n in range(count)],
                "unit_id": [unit] * count,
                "position": np.arange(count),
                "height": np.full(count, HEIGHT),
                "width": np.full(count, WIDTH),
                "status": ["ok"] * count,
                "error_class": pa.nulls(count, pa.string()),
                "error_message": pa.nulls(count, pa.string()),
                "num_segments": np.full(count, segments),
                "coverage": random.beta(9, 1, count).astype(np.float32),
                "mean_score": scores.mean(1),
            },
            schema=IMAGES,
        ),
    )


SCHEMA_1 = (
    "image_id", "segment_id", "label_id", "label", "is_thing", "score", "area", "bbox_x", "bbox_y",
    "bbox_w", "bbox_h", "height", "width", "rle",
)  # fmt: skip
"""The columns that every version of `segments` has."""


def drawn_shapes(segments: int) -> Any:
    """Returns areas, boxes and run lengths of wavy bands."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = rows + 12 * np.sin(columns / 23) + 5 * np.sin(columns / 5)
    band = np.clip(waves * segments / HEIGHT, 0, segments - 1).astype(np.int32)
    return encode_segments(band + 1)


if __name__ == "__main__":
    main()
