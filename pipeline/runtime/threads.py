"""Runs storage requests in threads, and shares a budget among them."""

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
    """Maps in threads, in order, and runs only a little ahead of its reader.

    If the reader stops, calls under way go on in their threads and later ones are never made. The
    generator does not wait for its threads then: the garbage collector may close it, in any thread.
    In a thread that is just starting, this may happen inside a lock that ending threads take
    (`_set_tstate_lock` and `_stop` in Python 3.11's `threading`), and waiting there would block all
    threads for ever.

    Args:
        ahead: most items under way or waiting for the reader; None for `num_threads`.
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
    """An amount that threads share, such as bytes of memory; threads wait until a part is free."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._change = threading.Condition()

    @contextlib.contextmanager
    def part(self, amount: int) -> Iterator[None]:
        """Holds a part. A part larger than the total waits for the total."""
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
