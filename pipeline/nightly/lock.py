"""The lock: one nightly run on a table at a time, so that none does the other's work again.

`TABLE/_runs/lock.json` says who holds it, and changes with every heartbeat. Whether its holder is
alive, the store's own clock tells: by how old the object is, and then by whether it changes while
one looks. Between two runs that take over a dead one's lock at the same moment, the last to write
has it, and the other sees that after a pause. Should both work all the same, as after hours of
sleep, they waste work and nothing else: that no row is lost or doubled rests on the order of plans.
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
    """Who holds the lock; times are of the holder's own clock, for people to read."""

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
        LockHeld: a run that is alive holds it.
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
        there = self._storage.file(self._uri)
        if there is None or self._age(there) < stale_seconds:
            raise self._held(there)
        # It looks dead; one that only had the clock against it shows itself now.
        time.sleep(2 * self._heartbeat_seconds)
        now, dead = self._storage.file(self._uri), self._words()
        if now is None or now.etag != there.etag:
            raise self._held(now)
        self._storage.write(self._uri, self._holder.to_json())
        # Another may have taken it over in this moment: the last to write has it.
        time.sleep(self._heartbeat_seconds)
        if not self._is_ours():
            raise self._held(self._storage.file(self._uri))
        print(f"took over the lock of {dead}: it is dead", file=sys.stderr)

    def beat(self, stop: threading.Event) -> None:
        """Says again and again that we are alive, until we are not the holder any more."""
        while not stop.wait(self._heartbeat_seconds):
            # A beat that the storage does not take is no harm: the next may go through.
            with contextlib.suppress(StorageFault):
                if not self._is_ours():
                    print(
                        f"the lock is now {self._words()}'s; both work, and the same rows come out",
                        file=sys.stderr,
                    )
                    return
                beats = self._holder.beats + 1
                self._holder = replace(self._holder, heartbeat=_clock(), beats=beats)
                self._storage.write(self._uri, self._holder.to_json())

    def release(self) -> None:
        """Removes the lock if it is ours; where the storage fails, it goes stale by itself."""
        with contextlib.suppress(StorageFault):
            if self._is_ours():
                self._storage.delete([self._uri])

    def _is_ours(self) -> bool:
        there = self._read()
        return there is not None and there.run_id == self._holder.run_id

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
        there = self._read()
        if there is None:
            return "another run"
        return (
            f"run {there.run_id} (process {there.pid} of {there.user} on {there.host}, since "
            f"{there.started})"
        )


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
