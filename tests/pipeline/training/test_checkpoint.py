"""Checkpoints are whole or not there."""

import errno
import json
import os
from pathlib import Path

import pytest

from pipeline.storage import Storage, StorageFault, join
from pipeline.training.checkpoint import Checkpoint, Checkpoints, best_of, checkpoint_name


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Writes what a worker writes before it is a checkpoint."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "training.pt"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def save(checkpoints: Checkpoints, made: Path, *, step: int, score: float | None = None, run="a"):
    uri = join(checkpoints.root, run, checkpoint_name(step))
    return checkpoints.save(made, uri=uri, step=step, score=score, metrics={}, per_label={})


def test_what_is_saved_is_found_and_fetched(made: Path, place: tuple[Storage, str], tmp_path: Path):
    storage, output = place
    checkpoints = Checkpoints(output, storage=storage)
    saved = save(checkpoints, made, step=3, score=0.5)
    assert checkpoints.latest() == saved
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    checkpoints.fetch(saved, into=fetched)
    assert {p.name: p.read_bytes() for p in fetched.iterdir()} == {
        p.name: p.read_bytes() for p in made.iterdir()
    }


def test_steps_count_before_runs(made: Path, tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path), storage=Storage())
    for run, step in (("a", 20), ("b", 10), ("b", 20)):
        save(checkpoints, made, step=step, run=run)
    assert [each.uri.split("/")[-2:] for each in checkpoints.found()] == [
        ["b", "step-00000010"],
        ["a", "step-00000020"],
        ["b", "step-00000020"],
    ]


@pytest.mark.parametrize("damage", ["no mark", "half a mark", "a file is gone", "a file is short"])
def test_half_of_one_is_none(damage: str, made: Path, tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path / "output"), storage=Storage())
    whole = save(checkpoints, made, step=1)
    torn = Path(save(checkpoints, made, step=2).uri)
    if damage == "no mark":
        (torn / "checkpoint.json").unlink()
    elif damage == "half a mark":
        (torn / "checkpoint.json").write_text((torn / "checkpoint.json").read_text()[:20])
    elif damage == "a file is gone":
        (torn / "training.pt").unlink()
    else:
        os.truncate(torn / "model.safetensors", 10)
    assert checkpoints.latest() == whole


def test_a_full_disk_leaves_no_checkpoint_and_says_what_to_do(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = Checkpoints(str(tmp_path / "output"), storage=Storage())
    whole = save(checkpoints, made, step=1)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFault, match=r"step-00000002 cannot be written.*No space left.*room"):
        save(checkpoints, made, step=2)
    monkeypatch.undo()
    assert checkpoints.latest() == whole


def test_the_last_and_the_best_are_kept(made: Path, place: tuple[Storage, str]):
    storage, output = place
    checkpoints = Checkpoints(output, storage=storage)
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.4), (4, None), (5, 0.5)):
        save(checkpoints, made, step=step, score=score)
    checkpoints.prune(keep_last=2)
    assert [each.step for each in checkpoints.found()] == [2, 4, 5]
    left = {file.uri.split("/")[-2] for file in storage.files(checkpoints.root)}
    assert left == {"step-00000002", "step-00000004", "step-00000005"}


def test_without_scores_the_latest_is_the_best():
    def one(step: int, score: float | None) -> Checkpoint:
        return Checkpoint(uri=str(step), step=step, score=score, metrics={}, per_label={}, files={})

    assert best_of([one(1, None), one(2, None)]).step == 2
    assert best_of([one(1, 0.3), one(2, float("nan"))]).step == 1
    assert best_of([one(1, 0.3), one(2, 0.3)]).step == 2
    assert best_of([]) is None


def test_the_mark_names_the_files_and_the_score(made: Path, tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path / "output"), storage=Storage())
    saved = save(checkpoints, made, step=7, score=0.25)
    said = json.loads(Path(saved.uri, "checkpoint.json").read_text())
    assert (said["step"], said["score"]) == (7, 0.25)
    assert said["files"] == {path.name: path.stat().st_size for path in made.iterdir()}
