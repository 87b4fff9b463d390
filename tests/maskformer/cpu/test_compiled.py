"""Machine code is kept for the next process, and not past a change of any loop's source."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import maskformer

_USED = """
import json
import numpy as np
from maskformer.cpu import argmax_loops
from maskformer.cpu import compiled
from maskformer.cpu import loops
maps, wide = np.zeros((2, 3, 4), np.float32), np.zeros(4, np.float32)
argmax_loops._first_argmax_lines(maps, np.zeros((3, 4), np.int32))
loops.widen(maps[0, 0] + 1, np.arange(4), np.arange(4), wide * 0, wide)
hits = sum(argmax_loops._first_argmax_lines.stats.cache_hits.values())
print(json.dumps({"folder": compiled.kept_in(), "hits": hits, "wide": wide.tolist()}))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that nothing was compiled for."""
    return _copied(tmp_path)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A copy of the package, and what two processes said that used it one after the other."""
    folder = tmp_path_factory.mktemp("used")
    package = _copied(folder)
    return package, [_use(package, cache=folder / "cache") for _ in range(2)]


def _copied(folder: Path) -> Path:
    there = Path(maskformer.__file__).parent
    copied = folder / "code" / "maskformer"
    shutil.copytree(there, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied


def _use(package: Path, *, cache: Path) -> dict[str, Any]:
    environment = {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(cache)}
    output = subprocess.run(
        [sys.executable, "-c", _USED], check=True, capture_output=True, text=True, cwd=cache.parent,
        env=os.environ | environment,
    ).stdout  # fmt: skip
    return json.loads(output)


def test_the_second_process_loads_what_the_first_compiled(
    used: tuple[Path, list[dict[str, Any]]],
) -> None:
    package, (first, second) = used

    assert Path(first["folder"]).is_relative_to(package)
    assert (first["hits"], second["hits"]) == (0, 1)
    assert second["wide"] == first["wide"] == [1, 1, 1, 1]


def test_a_change_of_a_function_that_others_call_is_seen_by_all(
    used: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    package, (_, before) = used
    loops = package / "cpu" / "loops.py"
    loops.write_text(loops.read_text().replace("+ before", "+ 2 * before"))
    after = _use(package, cache=tmp_path / "cache")

    assert after["folder"] != before["folder"]
    assert after["hits"] == 0
    assert after["wide"] == [2, 2, 2, 2]


def test_where_the_package_may_not_be_written_to_it_is_the_users_cache_or_nothing(
    package: Path, tmp_path: Path
) -> None:
    # A file where a folder is to be: that stops root, too.
    (package / "__pycache__").write_text("")
    users = [_use(package, cache=tmp_path / "cache") for _ in range(2)]
    (tmp_path / "no_cache").write_text("")
    none = _use(package, cache=tmp_path / "no_cache")

    assert Path(users[0]["folder"]).is_relative_to(tmp_path / "cache" / "maskformer")
    assert [use["hits"] for use in users] == [0, 1]
    assert (none["folder"], none["hits"]) == (None, 0)
