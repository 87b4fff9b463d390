"""Time and memory of a page's server until the first grid: 100,000 images, a million segments.

Starts the real command on a table that it draws, and asks as a browser does: the address with the
token, the table, the first hundred images; then thumbnails of forty of them and queries with other
orders and filters. Prints one JSON line; times in seconds, from the start of the process.

    python tests/benchmarks/first_grid.py [--images 100000] [--segments 10]
"""

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from large_tables import draw_large_table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--segments", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = draw_large_table(f"{folder}/table", images=given.images, segments=given.segments)
        print(json.dumps(measure(table, images=given.images)))


def measure(table: str, *, images: int) -> dict[str, Any]:
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


if __name__ == "__main__":
    main()
