"""Saves and finds checkpoints, a run's states in storage.

A folder of `OUTPUT/checkpoints/<run>/` is a model in transformers' format, ready to be used, with
`training.pt` beside it. `checkpoint.json` is written last and names the other files with their
sizes: without it, or with another size, the folder is no checkpoint. `worker.py` saves checkpoints
and resumes from them; `export.py` takes the best. Starts without torch.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs

from pipeline.storage import File, Storage, StorageFault, join

TRAINING_STATE = "training.pt"
_MARK = "checkpoint.json"
_FOLDER = "checkpoints"
_FILES_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    uri: str
    step: int
    """Steps that were taken before it."""
    score: float | None
    """The metric by which the best is chosen; None without validation."""
    metrics: Mapping[str, float]
    per_label: Mapping[str, float]
    """The score of each label, by name."""
    files: Mapping[str, int]
    """The size of each file, by name."""


class Checkpoints:
    """The checkpoints of an output, of all its runs."""

    def __init__(self, output: str, *, storage: Storage) -> None:
        self.root = join(storage.absolute(output), _FOLDER)
        self._storage = storage

    def found(self) -> list[Checkpoint]:
        """Returns all complete checkpoints by step; of equal steps, the latest run is last."""
        files = {file.uri: file for file in self._storage.files(self.root)}
        whole = []
        for uri in files:
            if uri.endswith(f"/{_MARK}"):
                checkpoint = self._parse(uri)
                if checkpoint is not None and _is_whole(checkpoint, files=files):
                    whole.append(checkpoint)
        return sorted(whole, key=lambda each: (each.step, each.uri))

    def latest(self) -> Checkpoint | None:
        return next(reversed(self.found()), None)

    def save(
        self,
        folder: Path,
        *,
        uri: str,
        step: int,
        score: float | None,
        metrics: Mapping[str, float],
        per_label: Mapping[str, float],
    ) -> Checkpoint:
        """Copies the files of a local folder to `uri`, and `checkpoint.json` after them.

        Raises:
            StorageFault: there is no room, or the storage failed; there is no checkpoint then.
        """
        names = sorted(path.name for path in folder.iterdir())
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            sizes = list(pool.map(lambda name: self._copy(folder / name, to=uri), names))
        checkpoint = Checkpoint(
            uri=uri,
            step=step,
            score=score,
            metrics=dict(metrics),
            per_label=dict(per_label),
            files=dict(zip(names, sizes, strict=True)),
        )
        values = {key: value for key, value in asdict(checkpoint).items() if key != "uri"}
        self._storage.write(join(uri, _MARK), json.dumps(values, indent=1).encode())
        return checkpoint

    def fetch(self, checkpoint: Checkpoint, *, into: Path) -> None:
        """Copies a checkpoint's files into a local folder."""
        for name in checkpoint.files:
            (into / name).write_bytes(self.read(checkpoint, name))

    def read(self, checkpoint: Checkpoint, name: str) -> bytes:
        """Reads a file of a checkpoint."""
        return self._storage.read(join(checkpoint.uri, name))

    def prune(self, *, keep_last: int) -> None:
        """Removes all checkpoints but those of the last `keep_last` steps and the best.

        `checkpoint.json` goes first, so that a half removed folder is no checkpoint.
        """
        found = self.found()
        steps = sorted({each.step for each in found})[-keep_last:]
        best = best_of(found)
        for each in found:
            if each.step not in steps and each != best:
                names = [_MARK, *each.files]
                self._storage.delete([join(each.uri, name) for name in names])

    def _copy(self, path: Path, *, to: str) -> int:
        data = path.read_bytes()
        try:
            self._storage.write(join(to, path.name), data)
        except StorageFault as fault:
            raise StorageFault(
                f"the checkpoint {to} cannot be written ({fault}); free some space or give another "
                "--output; earlier checkpoints are kept"
            ) from fault
        return len(data)

    def _parse(self, uri: str) -> Checkpoint | None:
        try:
            values: dict[str, Any] = json.loads(self._storage.read(uri))
            return Checkpoint(uri=uri.removesuffix(f"/{_MARK}"), **values)
        except (FileNotFoundError, ValueError, TypeError):
            return None


def ray_train_storage(root: str, *, storage: Storage) -> tuple[str, pyarrow.fs.FileSystem]:
    """Returns folder and file system of all runs, in the form that Ray Train takes."""
    if "://" not in root:
        return root, pyarrow.fs.LocalFileSystem()
    filesystem, path = storage.filesystem(root)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))


def checkpoint_name(step: int) -> str:
    return f"step-{step:08}"


def best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Returns the checkpoint with the highest score; of equal ones, or without scores, the last."""
    scored = [each for each in checkpoints if each.score is not None and each.score == each.score]
    if not scored:
        return checkpoints[-1] if checkpoints else None
    return max(scored, key=lambda each: (each.score, each.step))


def _is_whole(checkpoint: Checkpoint, *, files: Mapping[str, File]) -> bool:
    for name, size in checkpoint.files.items():
        file = files.get(join(checkpoint.uri, name))
        if file is None or file.size != size:
            return False
    return True
