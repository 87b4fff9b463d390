"""Work in threads, for what waits for storage."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    ahead: int | None = None,
) -> Iterator[Result]:
    """`map` in threads, in order, that runs only a little ahead of its reader.

    Whoever stops reading leaves what has begun to its threads; what has not is never run. Nobody
    waits for the threads then: a generator in a cycle is closed by the garbage collector, at any
    place in any thread. In one that is just starting, that may be inside the lock that the end of
    every other thread takes (`_set_tstate_lock` and `_stop` in Python 3.11's `threading`), and
    whoever waits for another there waits for ever, and every thread started later with it.

    Args:
        ahead: how many items are under way or wait to be taken, at most; `num_threads` unless told.
    """
    pool = ThreadPoolExecutor(num_threads)
    left = iter(items)
    waiting: deque[Future[Result]] = deque()
    is_left = False
    try:
        waiting.extend(pool.submit(call, item) for item in islice(left, ahead or num_threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(call, item) for item in islice(left, 1))
    except GeneratorExit:
        is_left = True
        raise
    finally:
        pool.shutdown(wait=not is_left, cancel_futures=True)


class Budget:
    """An amount that threads share, as of memory: who needs a part waits until it is free."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._change = threading.Condition()

    @contextlib.contextmanager
    def part(self, amount: int) -> Iterator[None]:
        """Holds a part. One that is larger than the whole waits for all of it."""
        amount = min(amount, self._total)
        with self._change:
            self._change.wait_for(lambda: self._taken + amount <= self._total)
            self._taken += amount
        try:
            yield
        finally:
            with self._change:
                self._taken -= amount
                self._change.notify_all()
