"""What workers and driver tell each other through storage."""

import time

import pytest

from pipeline.storage import Storage
from pipeline.training import notes as module
from pipeline.training.notes import DriverNotes, Progress, WorkerNotes


@pytest.fixture(autouse=True)
def no_long_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_SECONDS", 0.02)


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_driver_sees_what_the_first_worker_does(place: tuple[Storage, str]):
    storage, uri = place
    driver = DriverNotes(uri, storage=storage)
    assert driver.progress() is None
    worker = WorkerNotes(uri, storage=storage, first_step=3)
    worker.doing("loading the weights")
    until(lambda: driver.progress() == Progress(doing="loading the weights", step=3))
    worker.step_taken(4)
    until(lambda: driver.progress() == Progress(doing="training", step=4, unsaved=1))
    worker.step_taken(5)
    worker.step_taken(6)
    until(lambda: (told := driver.progress()) is not None and told.step == 6)
    told = driver.progress()
    assert told is not None
    assert told.unsaved == 3
    assert told.seconds_per_step is not None
    worker.saved()
    until(lambda: (told := driver.progress()) is not None and told.unsaved == 0)


def test_workers_are_asked_to_stop_once_and_only_where_steps_would_be_lost(
    place: tuple[Storage, str],
):
    storage, uri = place
    driver = DriverNotes(uri, storage=storage)
    assert not driver.ask_to_stop()
    worker = WorkerNotes(uri, storage=storage, first_step=0)
    worker.step_taken(1)
    until(lambda: (told := driver.progress()) is not None and told.unsaved == 1)
    assert not worker.is_stop_asked
    assert driver.ask_to_stop()
    assert not driver.ask_to_stop()
    until(lambda: worker.is_stop_asked)
