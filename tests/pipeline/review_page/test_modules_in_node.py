"""The page's modules that need no browser, run by Node."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

HERE = Path(__file__).parent / "pure"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="the page's modules are run by Node")


def test_each_operation_gives_the_map_that_it_should() -> None:
    ended = subprocess.run(
        [str(NODE), "--test", "--test-reporter=spec", *map(str, HERE.glob("*.test.mjs"))],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert "pass 0" not in ended.stdout


@pytest.fixture(scope="module")
def in_node() -> Iterator[subprocess.Popen[str]]:
    """A process that answers each line with what the page's modules make of it."""
    process = subprocess.Popen(
        [str(NODE), str(HERE / "rle_lines.mjs")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 0


@st.composite
def maps(draw: st.DrawFn) -> np.ndarray:
    """Maps of ids from 0 to 4, from noise to large areas, with long and short runs."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    cell = draw(st.sampled_from([1, 2, 7, 40]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = -(-height // cell), -(-width // cell)
    ids = random.choice(5, (rows, columns), p=[0.3, 0.4, 0.2, 0.05, 0.05])
    return np.kron(ids, np.ones((cell, cell), int))[:height, :width]


@settings(max_examples=150, deadline=None)
@given(ids=maps())
def test_run_lengths_equal_those_of_pycocotools(
    ids: np.ndarray, in_node: subprocess.Popen[str]
) -> None:
    rles, expected = {}, {}
    for number in np.unique(ids[ids > 0]).tolist():
        coco = coco_mask.encode(np.asfortranarray(ids == number, dtype=np.uint8))
        rle = coco["counts"].decode()
        box = [int(value) for value in coco_mask.toBbox(coco)]
        rles[number] = {"rle": rle, "box": box}
        expected[str(number)] = {
            "rle": rle,
            "area": int(coco_mask.area(coco)),
            "box": dict(zip(("x", "y", "width", "height"), box, strict=True)),
        }
    height, width = ids.shape
    question = {"ids": ids.ravel().tolist(), "width": width, "height": height, "rles": rles}
    answer = _ask(in_node, question)
    for number, of_rows, of_whole in answer["encoded"]:
        assert of_rows == of_whole == expected[number]
    assert answer["decoded"] == ids.ravel().tolist()


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 2**27), min_size=1, max_size=12))
def test_long_runs_are_written_and_read_exactly(
    counts: list[int], in_node: subprocess.Popen[str]
) -> None:
    size = [1, sum(counts)]
    expected = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    assert _ask(in_node, {"counts": counts}) == {"rle": expected, "counts": counts}


def _ask(node: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.write(json.dumps(question) + "\n")
    node.stdin.flush()
    answer: dict[str, Any] = json.loads(node.stdout.readline())
    return answer
