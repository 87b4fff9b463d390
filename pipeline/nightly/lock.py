"""Locks a table, so that two nightly runs do not label the same images at once.

`TABLE/_runs/lock.json` names the holder and is rewritten with every heartbeat. A holder counts as
dead if the object is old by the store's own clock, and does not change during a pause. If two runs
take over a dead lock at the same moment, the last writer holds it, and the other finds that out
after a pause. Two runs that work at once nevertheless, as after a long sleep of a machine, only
waste work: the order of plans ensures that no row is lost or doubled.
"""

import contextlib
import getpass
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from pipeline.runtime.exit_codes import TryAgain
from pipeline.storage import File, StorageFault
from pipeline.table.store import TableStore


class LockHeld(TryAgain):
    """Another run is alive; the message says who, where and since when."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds the lock; its times are of its own clock, for people to read."""

    run_id: str
    host: str
    pid: int
    user: str
    started: str
    heartbeat: str
    beats: int = 0

    @classmethod
    def here(cls, run_id: str) -> "Holder":
        return cls(
            run_id=run_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            user=_user(),
            started=_clock(),
            heartbeat=_clock(),
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


@contextlib.contextmanager
def holding_lock(
    table: TableStore, *, run_id: str, heartbeat_seconds: float, stale_seconds: float
) -> Iterator[None]:
    """Holds the table's lock while the block runs.

    Raises:
        LockHeld: a live run holds it.
    """
    lock = _Lock(table, Holder.here(run_id), heartbeat_seconds=heartbeat_seconds)
    lock.take(stale_seconds=stale_seconds)
    stop = threading.Event()
    beating = threading.Thread(target=lock.beat, args=(stop,), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        lock.release()


class _Lock:
    def __init__(self, table: TableStore, holder: Holder, *, heartbeat_seconds: float) -> None:
        self._table, self._storage, self._holder = table, table.storage, holder
        self._uri = table.file("_runs", "lock.json")
        self._heartbeat_seconds = heartbeat_seconds

    def take(self, *, stale_seconds: float) -> None:
        if self._storage.write_new(self._uri, self._holder.to_json()):
            return
        before = self._storage.file(self._uri)
        if before is None or self._age(before) < stale_seconds:
            raise self._held(before)
        # It looks dead. A live holder whose clock is wrong writes again within this pause.
        time.sleep(2 * self._heartbeat_seconds)
        now, dead = self._storage.file(self._uri), self._words()
        if now is None or now.etag != before.etag:
            raise self._held(now)
        self._storage.write(self._uri, self._holder.to_json())
        # Another run may have taken it over at the same moment: the last writer holds it.
        time.sleep(self._heartbeat_seconds)
        if not self._is_ours():
            raise self._held(self._storage.file(self._uri))
        print(f"took over the lock of {dead}, which has stopped", file=sys.stderr)

    def beat(self, stop: threading.Event) -> None:
        """Rewrites the lock at every heartbeat, until another run holds it."""
        while not stop.wait(self._heartbeat_seconds):
            # A failed write is harmless: the next heartbeat may succeed.
            with contextlib.suppress(StorageFault):
                if not self._is_ours():
                    print(
                        f"the lock is now held by {self._words()}; both runs continue, which "
                        "wastes work but gives the same rows",
                        file=sys.stderr,
                    )
                    return
                beats = self._holder.beats + 1
                self._holder = replace(self._holder, heartbeat=_clock(), beats=beats)
                self._storage.write(self._uri, self._holder.to_json())

    def release(self) -> None:
        """Removes the lock if it is ours; if storage fails, it becomes stale by itself."""
        with contextlib.suppress(StorageFault):
            if self._is_ours():
                self._storage.delete([self._uri])

    def _is_ours(self) -> bool:
        holder = self._read()
        return holder is not None and holder.run_id == self._holder.run_id

    def _read(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._storage.read(self._uri)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _age(self, file: File) -> float:
        return self._storage.now(self._uri) - file.modified

    def _held(self, file: File | None) -> LockHeld:
        last = f", last seen {max(0.0, self._age(file)):.0f} s ago" if file is not None else ""
        return LockHeld(f"{self._table.uri} is being labelled by {self._words()}{last}")

    def _words(self) -> str:
        holder = self._read()
        if holder is None:
            return "another run"
        return (
            f"run {holder.run_id} (process {holder.pid} of {holder.user} on {holder.host}, since "
            f"{holder.started})"
        )


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
