"""Keeps a few batches on a device at once: some are launched, others wait to be finished.

`segmenter.py` launches from one thread. Other threads wait for the device and finish what comes
back; both give up the interpreter's lock.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")

MOST_BATCHES = 8
"""At once, so that small batches are launched while a large one is computed."""

MOST_IMAGES = 262
"""Of all batches at once, which bounds the memory of their inputs and outputs."""


class BatchesInFlight(Generic[Result]):
    """The batches that were launched and are not finished."""

    def __init__(
        self, *, most: int = MOST_BATCHES, most_images: int = MOST_IMAGES, num_threads: int
    ) -> None:
        """Creates the threads that finish batches.

        Args:
            most: batches at once; more would hold memory of the device and gain nothing.
            most_images: of all batches at once; a larger batch is alone.
        """
        self._most, self._most_images = most, most_images
        self._has_room = threading.Condition()
        self._num_batches = self._num_images = 0
        self._finishers = ThreadPoolExecutor(
            num_threads, "finish", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._unfinished: set[Future[Result]] = set()

    def start(
        self, launch: Callable[[], Callable[[], Result]], *, num_images: int
    ) -> "Future[Result]":
        """Waits for room, calls `launch`, and then what that returned, on another thread."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._fits(num_images))
            self._num_batches += 1
            self._num_images += num_images
        try:
            finish = launch()
        except BaseException:
            self._leave(num_images)
            raise
        future = self._finishers.submit(finish)
        self._unfinished.add(future)
        future.add_done_callback(partial(self._finished, num_images=num_images))
        return future

    def _fits(self, num_images: int) -> bool:
        has_memory = self._num_images + num_images <= self._most_images
        return not self._num_batches or (self._num_batches < self._most and has_memory)

    def drain(self) -> bool:
        """Waits until all batches are finished. Returns whether there were any."""
        unfinished = [each for each in list(self._unfinished) if not each.done()]
        wait(unfinished)
        return bool(unfinished)

    def _finished(self, future: "Future[Result]", *, num_images: int) -> None:
        self._unfinished.discard(future)
        self._leave(num_images)

    def _leave(self, num_images: int) -> None:
        with self._has_room:
            self._num_batches -= 1
            self._num_images -= num_images
            self._has_room.notify_all()
