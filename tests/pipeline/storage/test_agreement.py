"""Writers agree on one value, whenever each of them runs, stops or is held back."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hooked import Crash

import pipeline.storage.agreement
from pipeline.storage.agreement import agree
from pipeline.storage.faults import StorageFault


class Register:
    """A place that can be written, read and listed, with a hook before each."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.contents: dict[str, set[bytes]] = {}

    def agree(self, value: bytes, *, hook: Callable[[], None] = lambda: None) -> bytes:
        def write(name: str, data: bytes) -> None:
            hook()
            self.objects[name] = data
            self.contents.setdefault(name, set()).add(data)

        def read(name: str) -> bytes:
            hook()
            return self.objects[name]

        def names() -> list[str]:
            hook()
            return list(self.objects)

        return agree(value, write=write, read=read, names=names)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.storage.agreement, "_FIRST_WAIT_SECONDS", 0.0)


class Turns:
    """Lets one of some threads do one operation at a time, in an order that a seed gives."""

    def __init__(self, number: int, *, seed: int) -> None:
        self._random, self._changed = Random(seed), threading.Condition()
        self._alive, self._waiting, self._next = set(range(number)), set[int](), -1

    def wait(self, index: int) -> None:
        with self._changed:
            self._waiting.add(index)
            self._choose()
            self._changed.wait_for(lambda: self._next == index)
            self._next = -1
            self._waiting.remove(index)

    def end(self, index: int) -> None:
        with self._changed:
            self._alive.remove(index)
            self._choose()

    def _choose(self) -> None:
        # Runs go on for a while: in even turns two writers would hinder each other for ever.
        if self._next < 0 and self._waiting == self._alive and self._alive:
            self._next = self._random.choice(sorted(self._alive))
            self._changed.notify_all()


def race(register: Register, *, writers: int, seed: int, crashes: bool) -> list[bytes]:
    """Runs operations in a random order; returns the results of those that did not crash."""
    turns, random, got = Turns(writers, seed=seed), Random(seed), []
    last = [
        random.randrange(1, 12) if crashes and random.random() < 0.5 else 999
        for _ in range(writers)
    ]

    def run(index: int) -> None:
        operations = 0

        def hook() -> None:
            nonlocal operations
            operations += 1
            if operations > last[index]:
                raise Crash
            turns.wait(index)

        try:
            got.append(register.agree(b"value of %d" % index, hook=hook))
        except (Crash, StorageFault):
            pass
        finally:
            turns.end(index)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(run, range(writers)))
    return got


@pytest.mark.parametrize("crashes", [False, True])
def test_all_who_meet_and_all_who_come_later_get_one_value(crashes):
    finished = 0
    for seed in range(150):
        register = Register()
        got = race(register, writers=2 + seed % 2, seed=seed, crashes=crashes)
        finished += len(got)
        got.append(register.agree(b"value of one who came late"))
        assert len(set(got)) == 1
        assert all(len(each) == 1 for each in register.contents.values()), "no name, two contents"
    assert finished > 100


def test_a_value_that_was_agreed_on_stays_whoever_asks():
    register = Register()
    assert register.agree(b"first") == b"first"
    assert [register.agree(b"second"), register.agree(b"")] == [b"first", b"first"]


def test_a_writer_that_looks_before_it_joins_would_be_caught(monkeypatch):
    """The order matters, and the race above is one in which that shows."""

    class Careless(Register):
        def agree(self, value: bytes, *, hook: Callable[[], None] = lambda: None) -> bytes:
            hook()
            if self.objects:
                hook()
                return next(iter(self.objects.values()))
            hook()
            self.objects[value.decode()] = value
            return value

    results = [race(Careless(), writers=2, seed=seed, crashes=False) for seed in range(50)]
    assert any(len(set(got)) > 1 for got in results)


def test_where_others_always_come_between_it_ends_in_a_fault():
    register, number = Register(), 0

    def hook() -> None:
        nonlocal number
        number += 1
        register.objects[f"{number:08}-other-joined"] = b""

    with pytest.raises(StorageFault, match="others wrote at the same time"):
        register.agree(b"value", hook=hook)
