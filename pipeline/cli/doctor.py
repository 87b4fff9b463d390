"""Looks at this machine, the cluster, the model and the storage, and says what is missing.

Changes nothing but one object below the table, which it writes and deletes.
"""

import contextlib
import dataclasses
import itertools
import os
import platform
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pipeline.cli.help import PAGES
from pipeline.cli.settings import DoctorSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.machines import memory_bytes
from pipeline.runtime.settings import Settings
from pipeline.storage import Storage, StorageFault
from pipeline.storage.faults import can_never_work

_LIBRARIES = ("ray", "torch", "torchvision", "pyarrow", "numpy", "timm", "numba", "duckdb")
_LISTED = 1000
_CONNECT_SECONDS = 5.0
_LEAST_BYTES = 4 * 2**30

State = Literal["ok", "missing", "away", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    subject: str
    state: State
    text: str
    hint: str = ""
    """What to type, or to change."""

    @property
    def lines(self) -> list[str]:
        """The finding for people."""
        lines = [f"{self.state:<10} {self.subject}: {self.text}"]
        return [*lines, f"{'':<10} {self.hint}"] if self.hint else lines


def doctor(settings: Settings) -> int:
    """Prints what was found; gives 0, 2 where something is to be set right, or 75."""
    given, storage = settings.of(DoctorSettings), settings.of(Storage)
    findings = []
    for look in (
        _libraries,
        _machine,
        _gpus,
        lambda: _cluster(given.ray_address or os.environ.get("RAY_ADDRESS")),
        lambda: _model(given.model),
        lambda: _corpus(given.corpus, storage=storage),
        lambda: _table(given.table, storage=storage),
    ):
        findings.append(look())
        print("\n".join(findings[-1].lines), flush=True)
    return _conclusion(findings)


def _conclusion(findings: Sequence[Finding]) -> int:
    missing = [finding.subject for finding in findings if finding.state == "missing"]
    away = [finding.subject for finding in findings if finding.state == "away"]
    if missing or away:
        print(f"errors and exit codes are explained in {PAGES}")
    if missing:
        print(f"set right: {', '.join([*missing, *away])}")
        return ExitCode.WRONG_USAGE
    if away:
        print(f"try again later: {', '.join(away)}")
        return ExitCode.TRY_AGAIN
    print("all right")
    return ExitCode.DONE


def _libraries() -> Finding:
    found = {name: _version(name) for name in _LIBRARIES}
    shown = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    lacking = [name for name, number in found.items() if number is None]
    if lacking:
        return Finding(
            subject="libraries", state="missing", text=f"there is no {', '.join(lacking)}",
            hint=f"type: pip install {' '.join(lacking)}",
        )  # fmt: skip
    return Finding(
        subject="libraries", state="ok", text=f"Python {platform.python_version()}, {shown}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> Finding:
    cpus, memory = len(os.sched_getaffinity(0)), memory_bytes()
    text = f"{_count(cpus, 'CPU')}, {memory / 2**30:.1f} GiB of memory"
    if memory < _LEAST_BYTES:
        return Finding(
            subject="machine", state="missing", text=text,
            hint=f"an actor and Ray need {_LEAST_BYTES / 2**30:.0f} GiB",
        )  # fmt: skip
    return Finding(subject="machine", state="ok", text=text)


def _gpus() -> Finding:
    program = shutil.which("nvidia-smi")
    names = _lines_of(program, "--query-gpu=name,memory.total", "--format=csv,noheader")
    if not names:
        return Finding(subject="GPUs", state="ok", text="none; images are segmented on CPUs")
    shown = "; ".join(names)
    test = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", test], check=False, capture_output=True).returncode:
        return Finding(
            subject="GPUs", state="missing", text=f"{shown}; torch cannot use them",
            hint="install the build of torch for this driver, see pytorch.org/get-started",
        )  # fmt: skip
    return Finding(subject="GPUs", state="ok", text=shown)


def _lines_of(program: str | None, *words: str) -> list[str]:
    if program is None:
        return []
    try:
        told = subprocess.run(
            [program, *words], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return told.stdout.strip().splitlines() if told.returncode == 0 else []


def _cluster(address: str | None) -> Finding:
    if address is None:
        return Finding(
            subject="cluster", state="ok",
            text="none is named; each run starts Ray on this machine",
            hint="to ask one: --ray_address HOST:6379, or RAY_ADDRESS",
        )  # fmt: skip
    hint = f"type on its head node: ray start --head; then --ray_address HOST:6379, not {address}"
    if not _listens(address):
        return Finding(
            subject="cluster", state="away", text=f"nothing listens at {address}", hint=hint
        )
    try:
        nodes = _nodes(address)
    except Exception as error:  # Ray has no class of its own for it
        if "version mismatch" in str(error).lower():
            return Finding(
                subject="cluster", state="missing", text=_first_line(error),
                hint="install the cluster's versions of Ray and Python here",
            )  # fmt: skip
        text = f"no Ray cluster answers at {address}: {_first_line(error)}"
        return Finding(subject="cluster", state="away", text=text, hint=hint)
    found = ((name, _resource(nodes, name)) for name in ("CPU", "GPU"))
    parts = [
        _count(len(nodes), "node"),
        *(_count(number, name) for name, number in found if number),
    ]
    text = f"Ray answers at {address}: {', '.join(parts)}"
    return Finding(subject="cluster", state="ok", text=text)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def _listens(address: str) -> bool:
    """Returns False where the host of an address refuses a connection, or does not answer."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return True  # auto, or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _nodes(address: str) -> list[dict[str, Any]]:
    """Returns the nodes of a cluster that are alive, as Ray describes them."""
    import logging

    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _resource(nodes: Sequence[dict[str, Any]], name: str) -> float:
    return sum(node["Resources"].get(name, 0) for node in nodes)


def _model(name: str | None) -> Finding:
    if name is None:
        return _skipped("model", "--model MODEL")
    from maskformer import check_shapes
    from pipeline.labelling.model import read_model

    try:
        model = read_model(name, resize_rule="transformers")
        check_shapes(model.folder)
    except (ValueError, OSError) as error:
        return Finding(
            subject="model", state="missing", text=_first_line(error),
            hint="give a folder, a hub id such as org/name, or a name that `maskformer zoo` lists",
        )  # fmt: skip
    stuff = "which are stuff is not known" if model.things is None else f"{len(model.stuff)} stuff"
    text = f"{name} is whole: {len(model.labels)} labels, {stuff}"
    return Finding(subject="model", state="ok", text=text)


def _corpus(uri: str | None, *, storage: Storage) -> Finding:
    if uri is None:
        return _skipped("corpus", "--corpus URI")

    def look() -> Finding:
        from pipeline.corpora.corpus import list_corpus
        from pipeline.corpora.settings import ReadSettings

        listing = list_corpus(uri, storage=_hasty(storage), settings=ReadSettings())
        sources = list(itertools.islice(listing.sources, _LISTED))
        if listing.faults and not sources:
            return Finding(subject="corpus", state="away", text=listing.faults[0])
        if not sources:
            return Finding(
                subject="corpus", state="missing", text=f"{uri} holds no image, archive or table",
                hint="correct the location",
            )  # fmt: skip
        count = f"{len(sources):,}" + ("" if len(sources) < _LISTED else " and more")
        text = f"{uri} can be listed: {count} files or manifest entries, as {sources[0].uri}"
        return Finding(subject="corpus", state="ok", text=text)

    return _of_storage("corpus", look)


def _table(uri: str | None, *, storage: Storage) -> Finding:
    if uri is None:
        return _skipped("table", "--table URI")

    def look() -> Finding:
        from pipeline.table.store import TableStore

        table = TableStore(uri, _hasty(storage))
        spec = table.spec()
        trial, data = table.file("_staging", f"doctor-{uuid.uuid4().hex}"), b"a test\n"
        with _new_folders_removed(table.uri):
            table.storage.write(trial, data)
            read = table.storage.read(trial)
            table.storage.delete([trial])
        if read != data:
            return Finding(subject="table", state="missing", text=f"{uri} gives back other bytes")
        there = "the first run makes it" if spec is None else f"a {spec['task']} table"
        text = f"{uri} can be written, read and deleted from; {there}"
        return Finding(subject="table", state="ok", text=text)

    return _of_storage("table", look)


@contextlib.contextmanager
def _new_folders_removed(uri: str) -> Iterator[None]:
    """Removes the folders that writing a test object makes on a disk."""
    path = Path(uri.removeprefix("file://"), "_staging")
    is_local = "://" not in uri.removeprefix("file://")
    made = [each for each in (path, *path.parents) if not each.exists()] if is_local else []
    try:
        yield
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _of_storage(subject: str, look: Callable[[], Finding]) -> Finding:
    """Looks; turns a fault of the storage into a finding."""
    try:
        return look()
    except StorageFault as error:
        state: State = "missing" if can_never_work(error) else "away"
        return Finding(subject=subject, state=state, text=_first_line(error), hint=_storage_hint())
    except ValueError as error:
        return Finding(subject=subject, state="missing", text=_first_line(error))


def _storage_hint() -> str:
    if "AWS_ACCESS_KEY_ID" in os.environ or "AWS_PROFILE" in os.environ:
        return "check --endpoint_url and --region, and what the AWS credentials may do"
    return (
        "check --endpoint_url and --region; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "--anonymous for a public bucket"
    )


def _hasty(storage: Storage) -> Storage:
    """Returns storage settings that give up soon, where people did not say how long to try."""
    usual, hasty = Storage(), storage.with_environment()
    if storage.storage_attempts == usual.storage_attempts:
        hasty = dataclasses.replace(hasty, storage_attempts=2)
    if storage.storage_seconds == usual.storage_seconds:
        hasty = dataclasses.replace(hasty, storage_seconds=20.0)
    return hasty


def _skipped(subject: str, option: str) -> Finding:
    return Finding(subject=subject, state="skipped", text=f"not looked at; add {option}")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}..."
