"""What is used of the inside of Ray is there and does what it is used for; it is used in one file.

A test that fails here after an update of Ray names the function of `inside_ray.py` to change.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
INSIDE = re.compile(r"_private|_internal|mock\.patch")

CLUSTER = """
import contextlib
import threading

import psutil
import pyarrow as pa
import ray
from pipeline.runtime.cluster import connect
from pipeline.runtime.inside_ray import blocks, map_blocks

start = ray.init
ray.init = lambda **options: start(num_cpus=1, num_gpus=1, **options)
connect(dashboard=True)

tables = [pa.table({"n": range(count)}) for count in (3, 1, 2)]
counted = map_blocks(
    ray.data.from_arrow(tables), lambda block: pa.table({"rows": [len(block)]}), num_gpus=0.01
)
print("blocks", sorted(block["rows"].to_pylist() for block in blocks(counted)))

before = set(threading.enumerate())
with contextlib.closing(blocks(counted)) as arriving:
    next(arriving)
print("threads left", [thread.name for thread in threading.enumerate() if thread not in before])

# This process and those of its cluster alone: others of the machine have another parent.
own = psutil.Process()
for process in [own, *own.children(recursive=True)]:
    with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has ended since
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens", connection.laddr.ip)
print("at", ray.util.get_node_ip_address())
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A program that starts a cluster as jobs do, with the dashboard; Ray believes in a GPU."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(CLUSTER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_cluster_that_is_started_here_listens_on_127_0_0_1_alone(cluster):
    addresses = set(re.findall(r"^listens (.*)$", cluster.stdout, re.MULTILINE))
    assert addresses, cluster.stderr
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert "at 127.0.0.1" in cluster.stdout.splitlines()


def test_actors_with_gpus_get_blocks_as_they_came(cluster):
    assert "blocks [[1], [2], [3]]" in cluster.stdout.splitlines(), cluster.stderr


def test_an_execution_that_is_closed_early_leaves_no_thread(cluster):
    assert "threads left []" in cluster.stdout.splitlines(), cluster.stdout


def test_the_dashboard_of_a_run_that_asks_for_it_is_named(cluster):
    assert re.search(r"^Ray dashboard: http://127\.0\.0\.1:\d+$", cluster.stderr, re.MULTILINE)


def test_the_inside_of_ray_is_used_in_one_file_alone():
    files = [
        path
        for layer in ("maskformer", "pipeline", "jobs")
        for path in (ROOT / layer).rglob("*.py")
    ]
    inside = {str(path.relative_to(ROOT)) for path in files if INSIDE.search(path.read_text())}
    assert inside == {"pipeline/runtime/inside_ray.py"}
