"""One job for one id: asked for again it is watched, left alone or tried again, as it ended."""

import dataclasses
from typing import Any

import pytest
from ray.job_submission import JobStatus

from pipeline.nightly import submission
from pipeline.nightly.submission import SubmitSettings, submit
from pipeline.runtime.settings import WrongUsage

COMMAND = ["jobs/label_nightly.py", "--config", "configs/nightly/s3.yaml", "--corpus", "a b"]
NIGHT = "label-nightly-2026-01-20"


@dataclasses.dataclass
class SubmittedJob:
    status: JobStatus
    driver_exit_code: int | None = None


@dataclasses.dataclass
class Cluster:
    """Stands in for Ray's client of a cluster that is not there."""

    jobs: dict[str, list[SubmittedJob]] = dataclasses.field(default_factory=dict)
    """What is said of each id, time after time; the last for ever."""
    ends: SubmittedJob = dataclasses.field(
        default_factory=lambda: SubmittedJob(JobStatus.SUCCEEDED, 0)
    )
    submitted: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    quicker: bool = False
    """Whether somebody else submits the same id in between."""
    log_fails: bool = False

    def submit_job(self, **options: Any) -> str:
        name = options["submission_id"]
        self.jobs[name] = [
            SubmittedJob(JobStatus.PENDING),
            SubmittedJob(JobStatus.RUNNING),
            self.ends,
        ]
        if self.quicker:
            raise RuntimeError(f"Request failed with status code 500: {name} already exists")
        self.submitted.append(options)
        return name

    def get_job_info(self, job_id: str) -> SubmittedJob:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        said = self.jobs[job_id]
        return said.pop(0) if len(said) > 1 else said[0]

    async def tail_job_logs(self, job_id: str):
        yield f"log of {job_id}\n"
        if self.log_fails:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(submission, "_ASK_EVERY_SECONDS", 0.0)


def submitted(cluster: Any, **changes: Any) -> int:
    settings = SubmitSettings(submission_id=NIGHT, **changes)
    return submit(COMMAND, settings=settings, client=cluster)


def test_the_command_is_submitted_as_it_stands(capfd):
    cluster = Cluster()
    assert submitted(cluster) == 0
    (options,) = cluster.submitted
    assert options == {
        "submission_id": NIGHT,
        "entrypoint": "jobs/label_nightly.py --config configs/nightly/s3.yaml --corpus 'a b'",
        "runtime_env": {"working_dir": "."},
    }
    shown = capfd.readouterr()
    assert shown.out == f"log of {NIGHT}\n"
    assert f"{NIGHT} ended with 0" in shown.err


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 0),  # done, with images in error: schedulers know one kind of done
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 4, 4),
        (JobStatus.FAILED, 75, 75),
        (JobStatus.FAILED, None, 75),  # lost with its node
        (JobStatus.FAILED, 137, 75),
        (JobStatus.FAILED, -9, 75),
        (JobStatus.STOPPED, None, 143),
    ],
)
def test_it_ends_as_the_job_ends(status, driver, code):
    assert submitted(Cluster(ends=SubmittedJob(status, driver))) == code


@pytest.mark.parametrize(
    ("there", "code"),
    [
        (SubmittedJob(JobStatus.SUCCEEDED, 0), 0),
        (SubmittedJob(JobStatus.FAILED, 3), 0),
        (SubmittedJob(JobStatus.FAILED, 4), 4),
        (SubmittedJob(JobStatus.STOPPED), 143),
    ],
)
def test_what_has_ended_is_not_submitted_again(there, code):
    cluster = Cluster(jobs={NIGHT: [there]})
    assert submitted(cluster) == code
    assert cluster.submitted == []


def test_a_run_that_goes_on_is_followed_to_its_end():
    running = [SubmittedJob(JobStatus.RUNNING)] * 3
    cluster = Cluster(jobs={NIGHT: [*running, SubmittedJob(JobStatus.FAILED, 4)]})
    assert submitted(cluster) == 4
    assert cluster.submitted == []


def test_what_ended_with_75_gets_one_more_attempt_each_time():
    cluster = Cluster(ends=SubmittedJob(JobStatus.FAILED, 75))
    assert [submitted(cluster) for _ in range(3)] == [75, 75, 75]
    cluster.ends = SubmittedJob(JobStatus.SUCCEEDED, 0)
    assert [submitted(cluster), submitted(cluster)] == [0, 0]
    assert [options["submission_id"] for options in cluster.submitted] == [
        NIGHT, f"{NIGHT}-2", f"{NIGHT}-3", f"{NIGHT}-4",
    ]  # fmt: skip


def test_who_is_second_by_a_moment_follows_the_first():
    cluster = Cluster(quicker=True)
    assert submitted(cluster) == 0
    assert cluster.submitted == []


def test_a_log_that_breaks_off_is_not_the_end_of_the_run(capfd):
    assert submitted(Cluster(log_fails=True, ends=SubmittedJob(JobStatus.FAILED, 4))) == 4
    assert "lost the log" in capfd.readouterr().err


def test_a_cluster_that_is_away_is_worth_another_try(capfd, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert submit(["true"], settings=SubmitSettings(submission_id=NIGHT)) == 75
    assert "run the same command again" in capfd.readouterr().err


def test_a_submission_without_a_command_is_wrong_usage():
    with pytest.raises(WrongUsage, match="after --"):
        submit([], settings=SubmitSettings(submission_id=NIGHT), client=Cluster())
