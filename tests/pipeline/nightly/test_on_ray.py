"""On a real cluster: exit codes reach the submitter, and Ray's agents export the metrics."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ports import free_ports, instead_of_fixed_ports

import pipeline
from pipeline.nightly.reporting.metrics import METRICS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROOT = Path(pipeline.__file__).parents[1]
BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}

RUN = """
import collections, sys, ray
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.nightly.reporting.metrics import RunMetrics
ray.init(log_to_driver=False)
counts = Counts(images=15, segments=60, bytes_read=9, errors=collections.Counter(EmptyFile=2))
stats = RunStats(counts=counts, units=3)
metrics = RunMetrics(stats, table="/data/table", units_planned=4)
metrics.update()
metrics.finish({
    "images": 16, "segments": 61, "bytes_read": 10, "errors": {"EmptyFile": 2}, "exit_code": 75,
    "units_committed": 3, "units_planned": 4, "images_per_second": 2.5, "seconds": 9.0,
    "gpu_seconds": 8.0, "node_seconds": 7.0, "cost": {"total": 1.5}, "mean_score": 0.9,
    "coverage": 0.8, "drift": [{"measure": "coverage", "index": 0.05}], "finished_at": 1.0,
    "storage_retries": {"throttled": 4},
})
print("the job has run")
sys.exit(75)  # at once: what Prometheus is to see has left by then
"""


@dataclass
class Head:
    """A running head node, and the metrics that its agent has shown so far."""

    dashboard: str
    seen: dict[str, float] = field(default_factory=dict)


@pytest.fixture
def head() -> Iterator[Head]:
    port, dashboard, metrics = free_ports(3)
    folder = tempfile.mkdtemp(prefix="r")  # short: sockets' paths have an end
    environment = {
        **os.environ, **TOKEN, "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_metrics_report_interval_ms": "2000",
    }  # fmt: skip
    process = subprocess.Popen(
        [
            str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}",
            f"--temp-dir={folder}", *instead_of_fixed_ports(),
        ],
        env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    stop = threading.Event()
    found = Head(dashboard=f"http://127.0.0.1:{dashboard}")
    watching = threading.Thread(target=_watch, args=(found, metrics, stop), daemon=True)
    try:
        _wait_until(lambda: _listens(dashboard), seconds=180)
        watching.start()
        yield found
    finally:
        stop.set()
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


SUBMIT = """
import json, sys
from pipeline.nightly.submission import SubmitSettings, submit
settings, command = (json.loads(word) for word in sys.argv[1:])
sys.exit(submit(command, settings=SubmitSettings(**settings)))
"""


def _submitted(
    command: list[str], head: Head, *, working_dir: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Submits the same night in a process of its own: Ray reads its tokens as it starts."""
    settings = {
        "submission_id": "night-2026-01-20",
        "address": head.dashboard,
        "working_dir": working_dir and str(working_dir),
    }
    return subprocess.run(
        [sys.executable, "-c", SUBMIT, json.dumps(settings), json.dumps(command)],
        env={**os.environ, **TOKEN}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_exit_codes_and_metrics_of_a_submitted_job(head):
    ran = _submitted(["python", "-c", RUN], head, working_dir=ROOT)
    assert ran.returncode == 75, ran.stderr
    assert "the job has run" in ran.stdout
    expected = {f"ray_{metric.name}" for metric in METRICS}
    _wait_until(lambda: head.seen.keys() >= expected, seconds=60)
    assert head.seen["ray_maskformer_images_total"] == 16
    assert head.seen["ray_maskformer_errors_total"] == 2
    assert head.seen["ray_maskformer_exit_code"] == 75
    assert head.seen["ray_maskformer_drift"] == 0.05

    # Ended with 75: another attempt, which ends well; the third time there is nothing to do.
    again = _submitted(["sh", "-c", "exit 3"], head)
    assert again.returncode == 0
    assert "submitted night-2026-01-20-2" in again.stderr
    last = _submitted(["sh", "-c", "exit 1"], head)
    assert last.returncode == 0
    assert "night-2026-01-20-2 was submitted before" in last.stderr


def _watch(head: Head, port: int, stop: threading.Event) -> None:
    """Keeps the latest value of each of our metrics, as Prometheus does."""
    while not stop.wait(0.5):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            continue
        for name, value in re.findall(r"(?m)^(ray_maskformer_\w+)\{.*\} (\S+)$", text):
            head.seen[name] = float(value)


def _wait_until(is_so: Callable[[], bool], *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.5)


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
