"""The table of benchmarks: what a program printed, missed or skipped stands in it."""

import sys
import time
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run_all

    yield run_all
    del sys.modules["run_all"]


def ends(pid: int, *, seconds: float = 30) -> bool:
    """Tells whether a process ends by then; one that was killed takes a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("program", "outcome", "figures"),
    [
        (
            """print('{"benchmark": "x", "a": 1.23456, "of": {"b": {"c": "d"}, "e": 2}}')""",
            "held",
            {"": "a 1.235", "of, b": "c d", "of": "e 2"},
        ),
        ("print('{\"a\": 3}'); assert 3 < 2, 'too many'", "AssertionError: too many", {"": "a 3"}),
        ("print('skipped: there is no GPU here')", "skipped: there is no GPU here", {}),
        ("import sys; sys.exit(3)", "exit code 3", {}),
        (
            """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
pathlib.Path(__file__).with_name("pid").write_text(str(child.pid))
print('{"a": 3}', flush=True)
child.wait()
""",
            "not ended after 0 min",
            {"": "a 3"},
        ),
    ],
)
def test_each_program_has_its_rows(run_all, tmp_path, monkeypatch, program, outcome, figures):
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    (tmp_path / "x.py").write_text(program)
    measured = run_all.run("x", seconds=2 if "while" in program else 60)
    assert (measured.outcome, measured.figures) == (outcome, figures)
    assert measured.is_good == (outcome == "held" or outcome.startswith("skipped"))
    assert not (tmp_path / "pid").exists() or ends(int((tmp_path / "pid").read_text()))
    assert f"| `x` | | {figures.get('', '')} | {outcome} |" in run_all.table([measured])


def test_every_program_of_the_folder_is_run(run_all):
    names = set(run_all.programs())
    assert {"throughput", "first_grid", "on_gpu"} <= names
    assert {"run_all", "peak_memory", "written_tables"}.isdisjoint(names)
