"""A process that dies at any operation on its files, or in the middle of a write: the next one ends
with the rows of an unbroken run."""

import builtins
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import all_rows, label_what_lacks, written_corpus

import pipeline.storage
from pipeline.table.store import images

_DIED = 77
_OPERATIONS = {
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir",
}  # fmt: skip
NAMES = ["a.jpg", "b.jpg", "c.jpg"]


@pytest.fixture(autouse=True)
def no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves flushes out: they guard against the end of a machine, not of a process."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return written_corpus(tmp_path / "corpus", names=NAMES)


@pytest.mark.parametrize("apart", [3, pytest.param(1, marks=pytest.mark.faults)])
def test_a_death_at_every_step_of_a_run_leaves_what_an_unbroken_run_leaves(
    corpus: Path, tmp_path: Path, apart: int
) -> None:
    """At every third step in the tests of each change, at each in those of faults."""
    label_what_lacks(corpus, tmp_path / "unbroken", run_id="unbroken")
    expected = all_rows(tmp_path / "unbroken")
    assert len(expected) == 2 * len(NAMES)
    steps = 0
    while (step := _died_at(steps, corpus, tmp_path / "table")) is not None:
        _assert_whole_units(all_rows(tmp_path / "table"), expected, step)

        label_what_lacks(corpus, tmp_path / "table", run_id="next")

        assert all_rows(tmp_path / "table") == expected, step
        assert _files_below(tmp_path / "table" / "_staging") == [], step
        shutil.rmtree(tmp_path / "table")
        steps += apart
    # The last process came to its end.
    assert all_rows(tmp_path / "table") == expected
    assert steps > 60
    print(f"figure: died at each of {steps} steps")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_second_death_at_every_step_of_the_run_that_goes_on_does_no_harm(
    corpus: Path, tmp_path: Path
) -> None:
    """After every tenth first death; what dies before its first step leaves nothing."""
    label_what_lacks(corpus, tmp_path / "unbroken", run_id="unbroken")
    expected = all_rows(tmp_path / "unbroken")
    first, deaths = 1, 0
    while _died_at(first, corpus, tmp_path / "first") is not None:
        second = 0
        while True:
            shutil.copytree(tmp_path / "first", tmp_path / "table", dirs_exist_ok=True)
            step = _died_at(second, corpus, tmp_path / "table", run_id="second")
            if step is not None:
                _assert_whole_units(all_rows(tmp_path / "table"), expected, step)
                label_what_lacks(corpus, tmp_path / "table", run_id="third")
            assert all_rows(tmp_path / "table") == expected, (first, step)
            shutil.rmtree(tmp_path / "table")
            if step is None:
                break
            second += 1
        deaths += second
        shutil.rmtree(tmp_path / "first")
        first += 10
    assert deaths > 300
    print(f"figure: {deaths} second deaths")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_corpus_that_grew_after_a_death_at_any_step_has_each_image_once(tmp_path: Path) -> None:
    steps = 0
    while True:
        corpus, table = written_corpus(tmp_path / f"{steps}", names=NAMES), tmp_path / "table"
        died = _died_at(steps, corpus, table)
        written_corpus(corpus, names=["0.jpg"])  # before all others, so that units would shift
        label_what_lacks(corpus, table, run_id="next")
        found = [row["image_id"] for row in images(str(table)).to_table().to_pylist()]
        assert sorted(found) == ["0.jpg", *NAMES], steps
        shutil.rmtree(table)
        if died is None:
            break
        steps += 1
    assert steps > 60


def _assert_whole_units(seen: list[Any], expected: list[Any], step: str) -> None:
    """Readers see units that are done, whole, and nothing else."""
    units = {row["unit_id"] for row in seen if "unit_id" in row}
    ids = {row["image_id"] for row in expected if row.get("unit_id") in units}
    assert seen == [row for row in expected if row["image_id"] in ids], step


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _died_at(step: int, corpus: Path, place: Path, *, run_id: str = "first") -> str | None:
    """The n-th step, from 0, of a process that labels and dies before it; what it had begun stays.

    None where it came to its end before.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _die_before(step, below=str(place), tell=lambda name: os.write(write_end, name.encode()))
        try:
            label_what_lacks(corpus, place, run_id=run_id)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as told:
        name = told.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _DIED), f"step {step} {name}: exit code {code}"
    return name if code == _DIED else None


def _die_before(step: int, *, below: str, tell: Callable[[str], Any]) -> None:
    """Counts each operation on a file of the table, and each half of a write, as a step."""
    left = step

    def reach(name: str) -> None:
        nonlocal left
        if left == 0:
            left -= 1  # telling it is no step
            tell(name)
            os._exit(_DIED)
        left -= 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and (path := str(arguments[0])).startswith(below):
            reach(f"{event} {path.removeprefix(below)}")

    os.fsync = lambda _: reach("os.fsync")
    pipeline.storage.local_files.open = lambda path, mode="r": _Halves(path, mode, reach)  # type: ignore[attr-defined]
    sys.addaudithook(audit)


class _Halves:
    """A file whose every write is two."""

    def __init__(self, path: Any, mode: str, reach: Callable[[str], None]) -> None:
        self._file, self._reach = builtins.open(path, mode), reach  # noqa: SIM115

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._reach(f"second half of {self._file.name}")
        self._file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Halves":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
