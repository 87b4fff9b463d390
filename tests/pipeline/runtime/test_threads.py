"""Items go through threads in order, a little ahead of their reader, who may go at any time."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.runtime.threads import Budget, map_ahead


def test_results_come_in_the_order_of_the_items() -> None:
    first = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert first.wait(timeout=60)  # the others are done before it
        if number == 3:
            first.set()
        return number * number

    assert list(map_ahead(call, range(9), num_threads=4)) == [n * n for n in range(9)]


def test_it_runs_only_so_far_ahead_of_its_reader() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(str, items(), num_threads=2, ahead=5)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    assert taken == list(range(7))
    results.close()  # type: ignore[attr-defined]


def test_nothing_gives_nothing() -> None:
    assert list(map_ahead(str, [], num_threads=2)) == []


def test_the_first_error_ends_it_and_what_has_not_begun_is_never_run() -> None:
    begun: list[int] = []
    leave = threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if number == 0:
            raise OSError("gone")
        leave.wait(timeout=0.2)
        return number

    results = map_ahead(call, range(50), num_threads=2, ahead=20)
    with pytest.raises(OSError, match="gone"):
        next(results)
    leave.set()
    assert len(begun) <= 3


def test_the_garbage_collector_may_close_it_in_a_thread_that_is_starting() -> None:
    """Forces what happens once in thousands of runs: the collector finds an abandoned
    reader in the one place where waiting for a thread never ends."""
    program = """
        import gc, threading
        from pipeline.runtime.threads import map_ahead

        def abandon():
            results = map_ahead(str, range(9), num_threads=2)
            next(results)
            cycle = [results]
            cycle.append(cycle)

        gc.disable()
        abandon()
        inside = threading._maintain_shutdown_locks
        collected = []

        def collect_inside():
            collected.append(gc.collect())
            inside()

        threading._maintain_shutdown_locks = collect_inside
        assert list(map_ahead(str, range(3), num_threads=2)) == ["0", "1", "2"]
        assert any(collected)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parts_of_a_budget_wait_until_they_are_free() -> None:
    budget, taken, most = Budget(10), 0, 0
    lock = threading.Lock()

    def call(amount: int) -> None:
        nonlocal taken, most
        with budget.part(amount):
            with lock:
                taken += min(amount, 10)
                most = max(most, taken)
            time.sleep(0.001)
            with lock:
                taken -= min(amount, 10)

    amounts = [1, 4, 7, 99, 3, 10, 2] * 8  # one is more than there is, and goes alone
    assert len(list(map_ahead(call, amounts, num_threads=8))) == len(amounts)
    assert (taken, most) == (0, 10)


def test_a_part_is_free_again_after_an_error() -> None:
    budget = Budget(1)
    for _ in range(2):
        with pytest.raises(KeyError), budget.part(1):
            raise KeyError
