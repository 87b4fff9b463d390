"""A model's graph is exported once and kept whole, whatever happens to its file."""

import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskformer import GraphFiles, kept_graph
from maskformer.export import kept_graphs
from maskformer.export.graph_file import read_graph_file, write_graph_file

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MASKFORMER_GRAPHS", str(tmp_path / "graphs"))
    return tmp_path / "graphs"


@pytest.fixture
def exports(monkeypatch) -> list[bytes]:
    """Exports by a stand-in, whose graphs are numbered; those that were made."""
    made: list[bytes] = []
    lock = threading.Lock()

    def export(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        folder, file = command[-2:]
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == FILES
        with lock:
            made.append(b"graph %d " % len(made) * 100_000)
            graph = made[-1]
        write_graph_file(Path(file), GraphFiles(graph=graph, mask_projection=b"projection"))
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", export)
    return made


def graph(fingerprint: str = "f" * 64, lines: list[str] | None = None) -> GraphFiles:
    lines = [] if lines is None else lines
    return kept_graph(FILES, fingerprint=fingerprint, announce=lines.append)


def test_a_graph_is_exported_once_and_read_from_then_on(root, exports):
    first, later = [], []
    found = graph(lines=first)
    assert graph(lines=later) == found
    assert (found.graph, len(exports)) == (exports[0], 1)
    assert (len(first), later) == (1, [])
    assert "once" in first[0]
    (kept,) = root.iterdir()
    assert zipfile.ZipFile(kept).read("decode_queries.onnx") == found.graph


def test_another_model_version_or_code_has_a_graph_of_its_own(root, exports, monkeypatch):
    graph()
    graph("e" * 64)
    monkeypatch.setattr(kept_graphs, "version", lambda package: "99.0")
    graph()
    monkeypatch.setattr(kept_graphs, "_code_digest", lambda: "0" * 8)
    graph()
    names = {path.name for path in root.iterdir()}
    assert len(names) == len(exports) == 4
    assert any("onnxruntime99.0" in name and "32Hx32W" in name for name in names)


def test_a_file_that_is_damaged_at_any_byte_is_known(tmp_path):
    path = tmp_path / "graph.zip"
    files = GraphFiles(graph=b"some graph", mask_projection=b"some weights")
    write_graph_file(path, files)
    assert read_graph_file(path) == files
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert read_graph_file(path) is None
        path.write_bytes(whole[:place])
        assert read_graph_file(path) is None
    assert read_graph_file(tmp_path / "absent.zip") is None


def test_a_damaged_graph_is_exported_again(root, exports):
    graph()
    (kept,) = root.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1000])
    lines: list[str] = []
    assert graph(lines=lines).graph == exports[1]
    assert str(kept) in lines[0]
    assert "damaged" in lines[0]
    assert graph().graph == exports[1]


def test_runs_that_export_at_once_leave_one_whole_file(root, exports):
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: graph(), range(6)))
    assert {each.graph for each in found} <= {*exports}
    (kept,) = root.iterdir()
    assert read_graph_file(kept) == graph()


def test_a_missing_package_is_named_with_what_to_type(root, exports, monkeypatch):
    def version(package: str) -> str:
        if package == "onnxruntime":
            raise kept_graphs.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(kept_graphs, "version", version)
    with pytest.raises(ValueError, match=r"needs onnxruntime.*pip install '.*\[onnx\]'"):
        graph()
    assert not exports


def test_a_model_that_cannot_be_exported_is_refused_in_one_line(root):
    """In the process that exports: here there are no weights at all."""
    with pytest.raises(ValueError, match=r"cannot be exported.*leave --engine out") as caught:
        kept_graph({"config.json": b"{}"}, fingerprint="f" * 64, announce=lambda line: None)
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


def test_an_export_that_is_killed_says_so(root, monkeypatch):
    killed = subprocess.CompletedProcess([sys.executable], -9, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: killed)
    with pytest.raises(ValueError, match=r"signal 9 ended the export .*memory"):
        graph()


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(root, exports):
    root.write_text("a file")
    with pytest.raises(ValueError, match=rf"cannot be kept at {root}.*MASKFORMER_GRAPHS"):
        graph()
