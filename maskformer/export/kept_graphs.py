"""Keeps exported models: exports one at its first use, and reads it from then on.

Takes a model's files; gives those of its graph. A graph is kept in a file whose name says what it
was made of and by. The folder is MASKFORMER_GRAPHS, or `maskformer/graphs` in the user's cache; its
files may be deleted at any time. Starts without torch.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import maskformer
from maskformer.export.graph_file import GraphFiles, read_graph_file
from maskformer.kept_files import code_digest, user_cache

ROOT_VARIABLE = "MASKFORMER_GRAPHS"

_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
_SHAPES = "1xCx32Hx32W"
_SOURCES = ("model.py", "export/onnx_graph.py", "network/*.py")


def kept_graph(
    files: Mapping[str, bytes], *, fingerprint: str, announce: Callable[[str], None]
) -> GraphFiles:
    """Returns the graph of a model, which is exported where none is kept, or a damaged one.

    Args:
        files: of the model's folder, by name.
        fingerprint: of the model; another model has another.
        announce: is told in a line that the export begins, as it takes a while.

    Raises:
        ValueError: a package is missing, the model cannot be exported, or the graph cannot be kept;
            in one line.
    """
    path = graphs_root() / f"{_name(fingerprint)}.zip"
    kept = read_graph_file(path)
    if kept is None:
        is_there = path.exists()
        why = f"{path} is damaged: exporting it again" if is_there else "exporting it, once"
        announce(f"the model as an ONNX graph: {why}; takes a minute or more")
        _export(files, path)
        kept = read_graph_file(path)
    if kept is None:
        raise ValueError(
            f"{path} was written and is damaged; see to the disk, or set {ROOT_VARIABLE}"
        )
    return kept


def graphs_root() -> Path:
    """Returns the folder of the kept graphs."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen)
    return user_cache() / "graphs"


def _name(fingerprint: str) -> str:
    """Returns a name that changes with the model, its code, shapes and whatever makes graphs."""
    made_by = "-".join(f"{package}{_version(package)}" for package in _PACKAGES)
    return f"{fingerprint[:16]}-{_SHAPES}-{made_by}-code{_code_digest()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ValueError(
            f"--engine onnx needs {package}, which is not installed; type: "
            "pip install 'maskformer-pipeline[onnx]', or leave --engine out"
        ) from error


def _code_digest() -> str:
    """Returns a digest of our code that a graph is traced from, and whose opset it has."""
    home = Path(maskformer.__file__).parent
    return code_digest(path for pattern in _SOURCES for path in home.glob(pattern))[:8]


def _export(files: Mapping[str, bytes], path: Path) -> None:
    """Writes the graph's file whole, or raises ValueError in one line.

    In a process of its own, that of a job must not load torch. Of two that export at once each
    writes a file of its own, and the last one stays.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            done = subprocess.run(
                [sys.executable, "-m", "maskformer.export.onnx_graph", folder, str(unfinished)],
                cwd=Path(maskformer.__file__).parents[1],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise ValueError(
                f"this model cannot be exported to ONNX: {_reason(done)}; leave --engine out"
            )
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(
            f"the model's graph cannot be kept at {path}: {error}; name another folder by "
            f"{ROOT_VARIABLE}"
        ) from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # where the folder could not be made
            unfinished.unlink(missing_ok=True)


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode < 0:
        return f"signal {-done.returncode} ended the export (9: out of memory)"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the export ended with {done.returncode}"
