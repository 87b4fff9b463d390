"""Storage that tells of every operation before it runs: to crash there, or let others go first."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

from pipeline.storage import File, Storage

Hook = Callable[[str, str], None]


class HookedStorage(Storage):
    """Local storage that calls `hook(operation, location)` before each operation."""

    def __init__(self, hook: Hook) -> None:
        super().__init__()
        object.__setattr__(self, "hook", hook)

    hook: Hook

    def files(self, uri: str) -> Iterator[File]:
        self.hook("list", uri)
        yield from list(super().files(uri))

    def file(self, uri: str) -> File | None:
        self.hook("look", uri)
        return super().file(uri)

    def read(self, uri: str, **options: Any) -> bytes:
        self.hook("read", uri)
        return super().read(uri, **options)

    def write(self, uri: str, data: bytes) -> None:
        self.hook("write", uri)
        super().write(uri, data)

    def write_once(self, uri: str, data: bytes) -> bytes:
        self.hook("write", uri)
        return super().write_once(uri, data)

    def delete(self, uris: Iterable[str]) -> None:
        for uri in uris:
            self.hook("delete", uri)
            super().delete([uri])


class Crash(BaseException):
    """The process ends here."""


def crash_at(operation: int) -> tuple[HookedStorage, list[tuple[str, str]]]:
    """Storage that crashes before its n-th operation, from 0; and the operations so far."""
    seen: list[tuple[str, str]] = []

    def hook(name: str, uri: str) -> None:
        if len(seen) == operation:
            raise Crash(f"before {name} {uri}")
        seen.append((name, uri))

    return HookedStorage(hook), seen


def interleaved(*programs: Callable[[Storage], Any], seed: int) -> list[Any]:
    """Runs programs side by side, one operation of storage at a time, in a random order."""
    turns = _Turns(len(programs), seed=seed)
    results: list[Any] = [None] * len(programs)

    def run(index: int) -> None:
        try:
            results[index] = programs[index](HookedStorage(lambda *_: turns.wait(index)))
        except BaseException as error:
            results[index] = error
        finally:
            turns.end(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(programs))]
    for thread in threads:
        thread.start()
    turns.run()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class _Turns:
    """Lets one of several programs go on at a time; each may have threads of its own."""

    def __init__(self, number: int, *, seed: int) -> None:
        self._alive, self._waiting = set(range(number)), Counter[int]()
        self._random, self._changed = Random(seed), threading.Condition()
        self._next: int | None = None

    def wait(self, index: int) -> None:
        with self._changed:
            self._waiting[index] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._next == index)
            self._next = None
            self._waiting[index] -= 1
            self._changed.notify_all()

    def end(self, index: int) -> None:
        with self._changed:
            self._alive.remove(index)
            self._changed.notify_all()

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._all_wait)
                if not self._alive:
                    return
                self._next = self._random.choice(sorted(self._alive))
                self._changed.notify_all()

    def _all_wait(self) -> bool:
        return self._next is None and all(self._waiting[index] for index in self._alive)


class OneArchive(Storage):
    """Storage that holds one archive."""

    @classmethod
    def of(cls, data: bytes) -> "OneArchive":
        storage = cls()
        object.__setattr__(storage, "data", data)
        return storage

    def open(self, uri: str, **_: Any) -> Any:
        return io.BytesIO(self.data)  # type: ignore[attr-defined]
