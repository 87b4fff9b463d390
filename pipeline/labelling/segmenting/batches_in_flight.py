"""Keeps a few batches on a device at once: some are launched, others wait to be finished.

`segmenter.py` launches from one thread. Other threads wait for the device and finish what comes
back; both give up the interpreter's lock.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class BatchesInFlight(Generic[Result]):
    """The batches that were launched and are not finished."""

    def __init__(self, *, most: int, num_threads: int) -> None:
        """Creates the threads that finish batches.

        Args:
            most: batches at once; more would hold memory of the device and gain nothing.
        """
        self._room = threading.Semaphore(most)
        self._finishers = ThreadPoolExecutor(
            num_threads, "finish", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._unfinished: set[Future[Result]] = set()

    def start(self, launch: Callable[[], Callable[[], Result]]) -> "Future[Result]":
        """Waits for room, calls `launch`, and then what that returned, on another thread."""
        self._room.acquire()
        try:
            finish = launch()
        except BaseException:
            self._room.release()
            raise
        future = self._finishers.submit(finish)
        self._unfinished.add(future)
        future.add_done_callback(self._finished)
        return future

    def drain(self) -> bool:
        """Waits until all batches are finished. Returns whether there were any."""
        unfinished = [each for each in list(self._unfinished) if not each.done()]
        wait(unfinished)
        return bool(unfinished)

    def _finished(self, future: "Future[Result]") -> None:
        self._unfinished.discard(future)
        self._room.release()
