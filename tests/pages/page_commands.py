"""Runs a command of a page where that can be done here; parses it everywhere else."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import yaml
from page_blocks import PROGRAMS, ROOT, words_of
from prepared import run_command

from pipeline.cli.__main__ import main
from pipeline.cli.commands import COMMANDS
from pipeline.cli.running import read_settings
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.__main__ import main as write_scenes

SUBSTITUTED = {
    "MODEL": str(SAMPLE_MODEL),
    "FIRST": str(SAMPLE_MODEL),
    "maskformer-swin-tiny-coco-panoptic": str(SAMPLE_MODEL),
    "maskformer-swin-large-coco-panoptic": str(SAMPLE_MODEL),
}
"""Values of --model in place of which the sample model is taken."""

SMALLER = {"num_images": "4", "num_workers": "1"}
"""Values of options that would take long."""

NOT_RUN = {
    "pip install": "what is installed is tried in an empty environment, by hand",
    "export ": "it sets variables for what follows",
    "docker ": "it needs Docker and a registry",
    "kubectl create": "it needs a cluster",
    "kubectl -n": "it needs a cluster",
    "mogrify ": "ImageMagick is not part of the project",
    "yolo ": "ultralytics is not part of the project",
}
"""Commands that are neither run nor parsed, by their first words, and why."""

HERE = frozenset(
    [
        "select",
        "compare",
        "verify",
        "compact",
        "import",
        "export",
        "zoo",
        "convert",
        "doctor",
        "gallery",
        "review",
    ]
)
"""Commands of `maskformer` that start no cluster and are run whenever the tests are."""
SERVERS = frozenset({"gallery", "review"})
PAGE_OF_SERVERS = "pipeline/review_page/README.md"
"""The page whose servers are started; on all others their commands are parsed."""

ELSEWHERE = ("://", "model_final", "--recipe", "configs/finetune", "--ray_address")
"""Words of commands that need a bucket, a download or a cluster."""


@dataclass
class Runner:
    """Runs the commands of one page in a folder."""

    page: str
    folder: Path
    runs_jobs: bool = False
    """Also what starts Ray."""
    not_run: set[str] = field(default_factory=set)
    """The keys of `NOT_RUN` that were met."""
    ran: list[str] = field(default_factory=list)
    parsed: list[str] = field(default_factory=list)

    def __call__(self, command: str) -> None:
        """Runs or parses a command.

        Raises:
            AssertionError: it cannot be parsed, or did not end with 0.
        """
        for words in NOT_RUN:
            if command.startswith(words):
                self.not_run.add(words)
                return
        words = words_of(command)
        program, *rest = words
        assert program in PROGRAMS, f"{command}: add it to PROGRAMS, or to NOT_RUN with a reason"
        if program == "maskformer":
            self._maskformer(rest, command=command)
        elif program == "python" and rest[0].startswith("jobs/"):
            self._job(rest)
        elif rest[:2] == ["-m", "pipeline.demo.scenes"]:
            assert write_scenes(_smaller(rest[2:])) == 0
            self.ran.append(command)
        elif program == "python" and rest[0] == "-c":
            exec(rest[1], {})
            self.ran.append(command)
        elif program == "duckdb" and rest[0] == "-c":
            duckdb.sql(rest[1]).fetchall()
            self.ran.append(command)
        elif program == "ray":
            self._ray(rest)
        elif program == "make":
            _ended_well(["make", "-n", *rest], cwd=ROOT)
            self.parsed.append(command)
        elif program == "kubectl":
            self._kubectl(rest)
        elif program == "eval":
            _ended_well(["bash", "-n", "-c", _printed(["--completion", "bash"])], cwd=ROOT)
            self.ran.append(command)
        else:
            raise AssertionError(f"{command}: no test knows how to run or parse it")

    def _maskformer(self, words: list[str], *, command: str) -> None:
        if ">" in words:
            at = words.index(">")
            text = _printed(words[:at])
            Path(words[at + 1]).write_text(text)
            assert yaml.safe_load(text)
            self.ran.append(command)
            return
        name, rest = words[0], _smaller(with_substitutes(words[1:]))
        assert name in COMMANDS, f"there is no command {name}"
        self._parse(name, rest)
        if any(sign in command for sign in ELSEWHERE):
            self.parsed.append(command)
        elif name in SERVERS and self.page == PAGE_OF_SERVERS:
            serve(name, rest)
            self.ran.append(command)
        elif name in HERE - SERVERS:
            assert main([name, *rest]) == 0, command
            self.ran.append(command)
        elif self.runs_jobs and name not in (*SERVERS, "submit"):
            self._run_job(name, rest)
            self.ran.append(command)
        else:
            self.parsed.append(command)

    def _parse(self, name: str, words: list[str]) -> None:
        command = COMMANDS[name]
        if command.takes_command:
            at = words.index("--")
            self._job(words[at + 1 :])
            words = words[:at]
        read_settings(command, words)

    def _run_job(self, name: str, words: list[str]) -> None:
        if name == "label" and "--dry_run" not in words:
            # Prepared tables have the names that runs make; this one is made anew, once.
            table = self.folder / words[words.index("--table") + 1]
            made = table.with_name(table.name + ".made")
            if not made.exists():
                shutil.rmtree(table, ignore_errors=True)
                made.touch()
        more = ["--num_steps", "2"] if name == "train" else []
        run_command([name, *words, *more], self.folder)

    def _job(self, words: Sequence[str]) -> None:
        """Parses a command of a file of jobs/."""
        file, *rest = words[1:] if words[0] == "python" else words
        text = (ROOT / file).read_text()
        name = text.split('run_job("')[1].split('"')[0]
        self._parse(name, with_substitutes(rest))
        self.parsed.append(" ".join(words))

    def _ray(self, words: list[str]) -> None:
        at = words.index("--")
        assert words[:at] == ["job", "submit", "--working-dir", "."], words
        self._job(words[at + 1 :])

    def _kubectl(self, words: list[str]) -> None:
        assert words[:2] == ["apply", "-k"], words
        assert (ROOT / words[2] / "kustomization.yaml").is_file()
        if shutil.which("kubectl"):
            _ended_well(["kubectl", "kustomize", words[2]], cwd=ROOT)
        self.parsed.append(" ".join(words))


def with_substitutes(words: Sequence[str]) -> list[str]:
    """Returns words with the sample model in place of the models that pages name."""
    return [
        SUBSTITUTED.get(word, word) if before == "--model" else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _smaller(words: Sequence[str]) -> list[str]:
    return [
        SMALLER.get(before.removeprefix("--"), word) if before.startswith("--") else word
        for before, word in zip(["", *words], words, strict=False)
        if word != "--no_open"  # the browser is what ends the server here
    ]


def _ended_well(words: Sequence[str], *, cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def _printed(words: Sequence[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(words)) == 0
    return out.getvalue()


def serve(name: str, words: Sequence[str]) -> None:
    """Runs a server until its page has been fetched, as by a browser, and ends it by Ctrl-C."""
    fetched: list[int] = []

    def open_page(address: str, *_: Any) -> bool:
        def fetch() -> None:
            try:
                opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
                # Refused where the command has ended with an error, which is what counts then.
                with contextlib.suppress(OSError), opener.open(address, timeout=30) as answer:
                    fetched.append(answer.status)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=fetch).start()
        return True

    with _replaced(webbrowser, "open", open_page):
        assert main([name, *words]) == 0
    assert fetched == [200]


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
