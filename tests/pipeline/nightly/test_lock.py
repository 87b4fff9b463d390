"""One nightly run on a table at a time, and the next one after its death."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.nightly.lock import LockHeld, holding_lock
from pipeline.storage import Storage
from pipeline.table.store import TableStore

ROOT = Path(__file__).parents[3]
BEAT, STALE = 0.1, 1.0

HOLDER = """
import sys, time
from pipeline.nightly.lock import holding_lock
from pipeline.storage import Storage
from pipeline.table.store import TableStore
with holding_lock(TableStore(sys.argv[1], Storage()), run_id="first", heartbeat_seconds=0.1,
                  stale_seconds=1.0):
    print("held", flush=True)
    time.sleep(60)
"""


def held(table: TableStore, run_id: str = "second", *, stale: float = STALE, beat: float = BEAT):
    return holding_lock(table, run_id=run_id, heartbeat_seconds=beat, stale_seconds=stale)


def read_lock(table: TableStore) -> dict:
    return json.loads(table.storage.read(table.file("_runs", "lock.json")))


def is_locked(table: TableStore) -> bool:
    return table.storage.file(table.file("_runs", "lock.json")) is not None


@pytest.fixture
def table(place) -> TableStore:
    storage, root = place
    return TableStore(f"{root}/table", storage)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the table in `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "table")],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_says_who_holds_it_beats_and_goes(table):
    with held(table, "mine"):
        first = read_lock(table)
        assert (first["run_id"], first["pid"]) == ("mine", os.getpid())
        assert {"host", "user", "started", "heartbeat"} <= first.keys()
        deadline = time.monotonic() + 10
        while read_lock(table)["beats"] < 2 and time.monotonic() < deadline:
            time.sleep(BEAT / 2)
        assert read_lock(table)["beats"] >= 2
        assert read_lock(table)["started"] == first["started"]
    assert not is_locked(table)


def test_a_second_run_ends_at_once_and_says_who_is_at_it(tmp_path, holder, monkeypatch):
    table = TableStore(str(tmp_path / "table"), Storage())
    with monkeypatch.context() as without_waiting:
        without_waiting.setattr(time, "sleep", None)
        with pytest.raises(LockHeld) as error, held(table, stale=60):
            pass
    since = read_lock(table)["started"]
    assert f"run first (process {holder.pid} of " in str(error.value)
    assert f"since {since}" in str(error.value)
    assert re.search(r"last seen \d+ s ago$", str(error.value))
    assert read_lock(table)["run_id"] == "first"


def test_a_lock_whose_holder_was_killed_is_taken_over_when_it_is_stale(tmp_path, holder, capsys):
    table = TableStore(str(tmp_path / "table"), Storage())
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with pytest.raises(LockHeld), held(table, stale=60):
        pass
    time.sleep(STALE)
    with held(table):
        assert read_lock(table)["run_id"] == "second"
    assert "took over the lock of run first" in capsys.readouterr().err
    assert not is_locked(table)


def test_a_run_that_is_stopped_gives_the_lock_back(tmp_path, holder):
    holder.send_signal(signal.SIGINT)
    holder.wait(10)
    assert not is_locked(TableStore(str(tmp_path / "table"), Storage()))


def test_a_lock_that_looks_old_but_beats_is_not_taken_over(table, monkeypatch):
    """Covers a clock that stamps objects and is not the one that tells the time."""
    monkeypatch.setattr(Storage, "now", lambda self, uri: time.time() + 3600)
    with held(table, "alive"), pytest.raises(LockHeld, match="run alive"), held(table):
        pass


def test_of_many_that_take_over_a_dead_lock_one_has_it(tmp_path):
    table = TableStore(str(tmp_path / "table"), Storage())
    table.storage.write(table.file("_runs", "lock.json"), b'{"run_id": "dead"}')
    time.sleep(1.5 * STALE)
    winners, losers = [], []
    all_decided = threading.Barrier(6)

    def run(number: int) -> None:
        try:
            with held(table, f"run-{number}", beat=5 * BEAT):
                winners.append(number)
                all_decided.wait(20)
        except LockHeld:
            losers.append(number)
            all_decided.wait(20)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    assert (len(winners), len(losers)) == (1, 5)
    assert not is_locked(table)


def test_who_lost_the_lock_says_so_and_leaves_it_to_the_new_holder(table, capsys):
    with held(table, "slept"):
        theirs = read_lock(table) | {"run_id": "other"}
        table.storage.write(table.file("_runs", "lock.json"), json.dumps(theirs).encode())
        deadline = time.monotonic() + 10
        said = ""
        while "the lock is now held by run other" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(BEAT)
        assert "the lock is now held by run other" in said
    assert read_lock(table)["run_id"] == "other"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"run": 3}'])
def test_a_lock_that_cannot_be_read_is_held_while_it_is_young(tmp_path, content):
    table = TableStore(str(tmp_path / "table"), Storage())
    table.storage.write(table.file("_runs", "lock.json"), content)
    with pytest.raises(LockHeld, match="another run"), held(table, stale=60):
        pass
