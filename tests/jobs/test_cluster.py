"""The job on a Ray cluster that is there already: submitted to it, and while a node goes away."""

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from job_runs import ROOT, Job, Jobs, Moment, running, words
from ports import free_ports
from table_rows import Run, assert_same, rows_of
from waiting import wait_until

from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines

pytestmark = pytest.mark.timeout(600)

BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
# The cluster decides what `python` is.
PATH = {"PATH": f"{BIN}:{os.environ['PATH']}"}
QUICK_TO_MISS_A_NODE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A running cluster of `nodes.py`."""

    address: str
    dashboard: str
    ray_folder: Path
    folder: Path
    """Where files tell it to add and to remove its second node."""
    first_work_of_the_second: Moment
    """Work on the second node stands still from there on, until the node is removed."""


@pytest.fixture(scope="module")
def nodes(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node. A second comes and goes within the first test.

    While jobs are submitted there must be one alone: a node that gets an upload unpacks it anew,
    and two nodes of one machine would unpack it into the same folder, under the other's imports.
    """
    with _nodes(jobs, tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.mark.faults
def test_a_node_that_goes_away_in_mid_run_costs_no_row(
    jobs: Jobs, nodes: Nodes, unbroken: Run, plain: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    (nodes.folder / "add").touch()
    wait_until((nodes.folder / "added").exists, what="the second node")
    moment = nodes.first_work_of_the_second
    job = _join(jobs, nodes, corpus=plain, table=tmp_path / "table", options=usual)
    wait_until(lambda: moment.came or job.process.poll() is not None, what="the second node")
    assert moment.came, job.end()
    (nodes.folder / "remove").touch()
    wait_until((nodes.folder / "removed").exists, what="the removal")
    assert job.process.poll() is None
    ended = job.end().expect(0)
    # Nobody submitted it, so that it brought its own code to the nodes.
    packages = _packages(nodes.ray_folder, kind="py_modules_files")
    names = {path.name for package in packages for path in package.iterdir()}
    assert names == {"maskformer", "pipeline"}
    _assert_small_and_without_demo(packages)

    assert ended.report["images"] == 12
    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert not (tmp_path / "table" / "_staging").exists()


def test_submitted_jobs_leave_their_tables_and_their_exit_codes_reach_the_submitter(
    jobs: Jobs, nodes: Nodes, unbroken: Run, plain: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    nodes.first_work_of_the_second.flag.touch()  # where this test is alone, too
    # It answers before its agent does, and without that it refuses jobs.
    wait_until(lambda: _takes_jobs(nodes.dashboard), what="a head that takes jobs", seconds=300)
    options = {"corpus": plain, "unit_images": 2, **usual}
    table = tmp_path / "table"
    # All at once: each submission waits for the cluster most of the time.
    submitted = [
        _submit([*entrypoint, *words({**options, **more})], jobs=jobs, nodes=nodes)
        for entrypoint, more in (
            (["jobs/segment_corpus.py"], {"table": table}),
            (["python", "jobs/segment_corpus.py"], {"table": tmp_path / "none", "treshold": 1}),
        )
    ]

    labelled, refused = [job.end() for job in submitted]

    labelled.expect(0)
    assert "succeeded" in labelled.stdout
    assert "labelled 12 images" in labelled.stdout
    assert_same(rows_of(table), unbroken.rows)
    assert refused.exit_code != 0
    assert "exit code 2" in refused.stdout + refused.stderr
    assert "treshold" in refused.stdout
    # The upload is the code without the demo.
    [package] = _packages(nodes.ray_folder, kind="working_dir_files")
    names = {path.name for path in package.iterdir()}
    assert {"jobs", "maskformer", "pipeline"} <= names
    assert names.isdisjoint({".git", ".venv", "demo", "tests"})
    _assert_small_and_without_demo([package])


@pytest.mark.faults
def test_a_node_that_comes_in_mid_run_takes_its_share_and_may_go_again(
    jobs: Jobs, unbroken: Run, plain: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    with _nodes(jobs, tmp_path) as nodes:
        moment = nodes.first_work_of_the_second
        options = {**usual, "actor_cpus": 1.2}
        job = _join(jobs, nodes, corpus=plain, table=tmp_path / "table", options=options)
        wait_until(lambda: any(tmp_path.glob("table/_runs/*/plan.parquet")), what="the plan")
        assert not moment.came
        (tmp_path / "add").touch()
        wait_until(lambda: moment.came or job.process.poll() is not None, what="the second node")
        assert moment.came, job.end()
        (tmp_path / "remove").touch()
        job.end().expect(0)

    assert_same(rows_of(tmp_path / "table"), unbroken.rows)
    assert not (tmp_path / "table" / "_staging").exists()


@pytest.mark.parametrize(("cpus", "num_actors"), [(1, None), (2, None), (2, 4), (8, 3)])
def test_actors_leave_room_for_a_reader_and_a_stager_on_any_node(
    cpus: int, num_actors: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": cpus}}])

    machines = Machines.of_cluster(ActorSettings(num_actors=num_actors))

    # Otherwise all wait for ever: the actors for images, the reader for a CPU.
    actors = machines.most_actors * machines.actor_cpus
    others = machines.reader_cpus + machines.stager_cpus
    assert actors + others <= cpus
    if cpus > 1:  # even when the actor of a node that went away comes to this one
        assert actors + machines.actor_cpus + others <= cpus


@pytest.mark.parametrize(("cpus", "gpus", "actor_gpus"), [(16, 1, 0.25), (8, 8, None), (2, 2, 0.5)])
def test_actors_on_gpus_leave_room_for_readers(
    cpus: int, gpus: int, actor_gpus: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = [{"CPU": cpus, "GPU": gpus}, {"CPU": 4}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": r} for r in resources])

    machines = Machines.of_cluster(ActorSettings(actor_gpus=actor_gpus))

    assert machines.most_actors == gpus / (actor_gpus or 1)
    others = machines.reader_cpus + machines.stager_cpus
    assert machines.most_actors * machines.actor_cpus + others <= cpus


@contextlib.contextmanager
def _nodes(jobs: Jobs, folder: Path) -> Iterator[Nodes]:
    """Runs a cluster of `nodes.py` that takes jobs."""
    dashboard_port, agent_port = free_ports(2)
    options = {
        "include_dashboard": True, "dashboard_host": "127.0.0.1",
        "dashboard_port": dashboard_port, "dashboard_agent_listen_port": agent_port,
    }  # fmt: skip
    moment = Moment(at="before segment", name="*", do="wait", node="second")
    # The first waits too: it would do it all before the second has begun.
    patience = Moment(at="before segment", name="*", do="wait", until=moment.flag)
    program = str(Path(__file__).with_name("nodes.py"))
    cluster = jobs.start_command(
        [sys.executable, program, str(folder), json.dumps(options)],
        moments=[moment, patience],
        environment={**TOKEN, **PATH, **QUICK_TO_MISS_A_NODE},
    )
    with running(cluster):
        wait_until((folder / "address").exists, what="the cluster")
        yield Nodes(
            address=(folder / "address").read_text(),
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            ray_folder=cluster.ray_folder,
            folder=folder,
            first_work_of_the_second=moment,
        )


def _packages(ray_folder: Path, *, kind: str) -> list[Path]:
    """Returns the unpacked uploads of a cluster, each once, whichever nodes have them."""
    found = {path.name: path for path in ray_folder.rglob(f"{kind}/_ray_pkg_*") if path.is_dir()}
    return list(found.values())


def _assert_small_and_without_demo(packages: Sequence[Path]) -> None:
    found = [path for package in packages for path in package.rglob("*") if path.is_file()]
    files = [path for path in found if "__pycache__" not in path.parts]  # compiled after the upload
    assert any("pipeline/labelling" in str(path) for path in files)
    assert not [path for path in files if "pipeline/demo" in str(path)]
    assert sum(path.stat().st_size for path in files) < 3_000_000


def _join(jobs: Jobs, nodes: Nodes, *, corpus: Path, table: Path, options: dict[str, Any]) -> Job:
    """A job of two actors on the cluster there."""
    return jobs.start(
        environment=TOKEN,
        **{
            **options, "corpus": corpus, "table": table, "unit_images": 2,
            "num_actors": 2, "ray_address": nodes.address,
        },
    )  # fmt: skip


def _submit(command: list[str], *, jobs: Jobs, nodes: Nodes) -> Job:
    submit = [str(BIN / "ray"), "job", "submit", "--address", nodes.dashboard]
    return jobs.start_command(
        [*submit, "--working-dir", str(ROOT), "--", *command], environment={**TOKEN, **PATH}
    )


def _takes_jobs(dashboard: str) -> bool:
    request = urllib.request.Request(
        f"{dashboard}/api/jobs/",
        data=json.dumps({"entrypoint": "true"}).encode(),
        headers={
            "Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    try:
        return urllib.request.urlopen(request, timeout=30).status == 200
    except OSError:
        return False
