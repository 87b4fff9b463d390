"""Jobs as a scheduler starts them: processes with words and exit codes, and nothing left behind.

Each job gets its own folder for Ray and a mark in its environment, by which every process that it
started can be found, those included that Ray starts for it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import ray

ROOT = Path(__file__).parents[2]
SEGMENT_CORPUS = ROOT / "jobs" / "segment_corpus.py"

_MARK = "TEST_JOB"
_SECONDS = 800
_SECONDS_TO_GO = 90
_FLAGS = tempfile.TemporaryDirectory(prefix="moments-")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """An event to happen at a moment inside a job's processes; see moments/sitecustomize.py."""

    at: str
    """`before put`, `after put`, `before unlink`, `before read` or `before segment`."""
    name: str
    """Pattern of the file's path, or of the image ids that are segmented."""
    do: Literal["kill driver", "kill self", "wait"]
    flag: Path = field(default_factory=lambda: Path(_FLAGS.name, uuid.uuid4().hex))
    """Is made when the moment comes, and keeps it from coming twice."""
    node: str | None = None
    """Only in processes with this value of TEST_NODE."""
    until: Path | None = None
    """With `wait`: each time, but no longer than until this file is there."""

    @property
    def came(self) -> bool:
        return self.flag.exists()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The output of a job, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """`report.json`, of a table on the disk."""
        [line] = [line for line in self.stdout.splitlines() if line.startswith("report: ")]
        return json.loads(Path(line.removeprefix("report: ")).read_text())

    def assert_quiet(self, *, units: int) -> None:
        """Checks that stderr has an opening line and, on a busy machine, some of progress."""
        # Ray's own words are in its logs. Before it is quiet it confirms that in one line, which
        # no public setting leaves out.
        of_ray = "Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"
        opening, *progress = [line for line in self.stderr.splitlines() if of_ray not in line]
        assert opening.startswith(f"{units} units, "), self.stderr
        for line in progress:
            assert re.fullmatch(r"\d\d:\d\d:\d\d  \d+ images, .*", line), self.stderr

    @property
    def one_line(self) -> str:
        """Returns the output, which must be one line about wrong usage."""
        assert self.exit_code == 2, f"exit code {self.exit_code}\n{self.stdout}{self.stderr}"
        [line] = self.stderr.splitlines()
        assert "Traceback" not in self.stdout + self.stderr
        return line


@dataclass(frozen=True, kw_only=True)
class Ended(Outcome):
    """A process that is over."""

    ray_folder: Path

    @property
    def started_ray(self) -> bool:
        return any(self.ray_folder.iterdir())

    def expect(self, exit_code: int) -> "Ended":
        assert self.exit_code == exit_code, (
            f"exit code {self.exit_code}\n{self.stdout}{self.stderr}"
        )
        return self


class Job:
    """A process and all that it starts; it runs as soon as it is made."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        moments: Sequence[Moment] = (),
    ) -> None:
        self._mark = uuid.uuid4().hex
        self.folder = folder
        self.ray_folder = folder / "ray"
        self.ray_folder.mkdir(parents=True)
        changes = {
            _MARK: self._mark,
            "RAY_TMPDIR": str(self.ray_folder),
            ON_THE_NETWORK: "0",
            **moments_environment(moments),
            **(environment or {}),
        }
        with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [*command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,  # a job runs from anywhere
                env={**clean_environment(), **changes},
            )

    def end(self, *, seconds: float = _SECONDS) -> Ended:
        """Waits for the end of the process, and for that of all others that it started.

        Those of a job that was killed are ended with it, as a container's are: a worker of Ray that
        was just starting lives on for half a minute.
        """
        try:
            exit_code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            exit_code = self.process.wait()
        left = self.stop(seconds=0 if exit_code == -signal.SIGKILL else _SECONDS_TO_GO)
        output = [(self.folder / name).read_text() for name in ("stdout", "stderr")]
        assert not left or exit_code == -signal.SIGKILL, f"left behind: {left}\n{''.join(output)}"
        return Ended(
            exit_code=exit_code, stdout=output[0], stderr=output[1], ray_folder=self.ray_folder
        )

    def processes(self) -> list[psutil.Process]:
        """All that carry the mark and live."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def stop(self, *, seconds: float) -> list[str]:
        """Ends, by their ids, processes that do not go by themselves; gives their names."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline())[:200])
                process.kill()
        psutil.wait_procs(left, timeout=10)
        return names


class Jobs:
    """Starts jobs; all that they leave beside their tables goes when it is closed."""

    def __init__(self) -> None:
        # Not pytest's folder: the paths of Ray's sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="jobs-", dir="/tmp"))
        self._started: list[Job] = []

    def run(self, **options: Any) -> Ended:
        """`jobs/segment_corpus.py` with the options, to its end; see `start`."""
        return self.start(**options).end()

    def start(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        moments: Sequence[Moment] = (),
        **options: Any,
    ) -> Job:
        """`jobs/segment_corpus.py`, on Ray unless told; `limit=3` is `--limit 3`, a True is an
        option without value."""
        command = [sys.executable, str(SEGMENT_CORPUS), *words({"local": "false", **options})]
        return self.start_command(command, environment=environment, moments=moments)

    def start_command(self, command: Sequence[str], **settings: Any) -> Job:
        folder = self.folder / f"{len(self._started):02}"
        self._started.append(Job(command, folder=folder, **settings))
        return self._started[-1]

    def close(self) -> None:
        for job in self._started:
            if job.process.poll() is None:
                job.stop(seconds=0)
        shutil.rmtree(self.folder, ignore_errors=True)


class Here:
    """Runs jobs in this process, without a start of Python: what ends before Ray starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, main: Callable[[], int], **options: Any) -> Outcome:
        """A job's `main` with the options; a start of Ray fails the test."""
        with self._monkeypatch.context() as patch:
            name = str(main.__module__).removeprefix("jobs.")
            if name in ("segment_corpus", "label_nightly"):
                options = {"local": "false", **options}
            patch.setattr(sys, "argv", [f"jobs/{name}.py", *words(options)])
            patch.setattr(ray, "init", _no_ray)
            exit_code = main()
        output = self._capsys.readouterr()
        return Outcome(exit_code=exit_code, stdout=output.out, stderr=output.err)

    def up_to_ray(self, main: Callable[[], int], **options: Any) -> Outcome:
        """Runs a job that also ends, with exit code 0, when it starts Ray."""
        environment = dict(os.environ)
        try:
            return self(main, **options)
        except RayWasStarted:
            output = self._capsys.readouterr()
            return Outcome(exit_code=0, stdout=output.out, stderr=output.err)
        finally:
            os.environ.clear()
            os.environ.update(environment)


class RayWasStarted(BaseException):  # which no job catches
    """A job that was to end before came to its start of Ray."""


def _no_ray(*_: object, **__: object) -> None:
    raise RayWasStarted


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed."""
    typed = []
    for name, value in options.items():
        typed += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return typed


def moments_environment(moments: Sequence[Moment]) -> dict[str, str]:
    if not moments:
        return {}
    return {
        "PYTHONPATH": str(Path(__file__).parent / "moments"),
        "MOMENTS": json.dumps([asdict(each) for each in moments], default=str),
    }


# As a run does for its own cluster; clusters of tests stay on this machine too.
ON_THE_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def clean_environment() -> dict[str, str]:
    """This process's, without what would change where a job runs or whom it is."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "AWS_", "PYTEST_")) and name != "PYTHONPATH"
    }


@contextlib.contextmanager
def running(job: Job) -> Iterator[Job]:
    """A process that serves others until the block is left."""
    try:
        yield job
    finally:
        # Ray's agents hide the mark behind a title, and would seek their node for minutes.
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(job.process.pid).children(recursive=True)
        for process in {*job.processes(), *children}:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        job.stop(seconds=3)
