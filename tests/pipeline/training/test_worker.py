"""A worker alone, without Ray: what it writes of its steps, and how it stops."""

import threading
import time
from pathlib import Path

import pytest
from corpora import put
from drawn_labels import panoptic_shards, scenes
from one_worker import be_the_only_worker
from tiny_training import tiny_model

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.storage import Storage
from pipeline.training import notes as notes_module
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.history import read_history
from pipeline.training.initial_model import StartSettings, read_start
from pipeline.training.notes import DriverNotes
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.worker import TrainingJob, train


@pytest.fixture(autouse=True)
def ray_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for what Ray Train gives a worker, as plain values."""
    be_the_only_worker(monkeypatch)
    monkeypatch.setattr(notes_module, "_LOOK_EVERY_SECONDS", 0.05)


def training_job(folder: Path, *, num_steps: int, log_every: int) -> TrainingJob:
    model = folder / "model"
    if not model.exists():
        tiny_model().save_pretrained(model)
        MaskFormerImageProcessor(size={"shortest_edge": 32}).save_pretrained(model)
        put(folder / "data", panoptic_shards(scenes()))
    dataset = open_labelled(DatasetSettings(dataset=str(folder / "data")))
    start = read_start(StartSettings(model=str(model)), labels=dataset.labels.names)
    return TrainingJob(
        output=str(folder / "output"),
        storage=Storage(),
        start=start,
        data=TrainingData(
            dataset=dataset, augmentation=Augmentation(), processor=start.processor, seed=0
        ),
        validation=None,
        optimisation=OptimisationSettings(num_steps=num_steps, batch_size=1),
        auxiliary_losses=False,
        checkpoint_every=num_steps,
        keep_checkpoints=1,
        log_every=log_every,
        loader_processes=0,
    )


def test_the_first_step_has_a_line_whatever_log_every_says(tmp_path: Path):
    told = training_job(tmp_path, num_steps=4, log_every=3)
    assert train(told) is None
    lines = read_history(told.output, storage=Storage())
    assert [line["step"] for line in lines] == [1, 3, 4]
    notes = DriverNotes(str(tmp_path / "output/checkpoints/run"), storage=Storage())
    deadline = time.monotonic() + 20
    while (progress := notes.progress()) is None or progress.step < 4:  # a thread writes it
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_is_asked_to_stop_saves_its_steps_and_another_goes_on_from_there(
    tmp_path: Path,
):
    many = training_job(tmp_path, num_steps=1_000_000, log_every=1_000_000)
    notes = DriverNotes(str(tmp_path / "output/checkpoints/run"), storage=Storage())

    def ask() -> None:
        while not notes.ask_to_stop():
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    assert train(many) is None
    asking.join()
    saved = Checkpoints(many.output, storage=Storage()).latest()
    assert saved is not None
    assert 0 < saved.step < 1_000_000
    assert saved.score is None
    (tmp_path / "output/checkpoints/run/stop").unlink()
    rest = training_job(tmp_path, num_steps=saved.step + 2, log_every=1)
    assert train(rest) is None
    steps = [line["step"] for line in read_history(many.output, storage=Storage())]
    assert steps[-2:] == [saved.step + 1, saved.step + 2]
