"""A few batches are in flight at once, whatever becomes of them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.labelling.segmenting.batches_in_flight import BatchesInFlight

SECONDS = 60


def test_no_more_than_the_most_are_launched_before_one_is_finished():
    in_flight = BatchesInFlight[int](most=2, num_threads=2)
    may_finish, launched = threading.Event(), []

    def launch(number: int):
        launched.append(number)
        return lambda: may_finish.wait(SECONDS) and number

    with ThreadPoolExecutor(1) as launcher:
        starting = [
            launcher.submit(in_flight.start, lambda number=number: launch(number), num_images=1)
            for number in range(4)
        ]
        starting[1].result(SECONDS)
        assert not starting[2].done()
        assert launched == [0, 1]
        may_finish.set()
        assert [each.result(SECONDS).result(SECONDS) for each in starting] == [0, 1, 2, 3]


def test_images_of_all_batches_are_bounded_and_a_larger_batch_is_alone():
    in_flight = BatchesInFlight[None](most=8, most_images=10, num_threads=1)
    sizes = [4, 4, 2, 1, 30, 2, 9]
    present: set[int] = set()
    seen = []
    may_finish = [threading.Event() for _ in sizes]

    def launch(number: int):
        present.add(number)
        seen.append({sizes[each] for each in present})
        return lambda: may_finish[number].wait(SECONDS) and present.discard(number)

    with ThreadPoolExecutor(1) as launcher:
        starting = [
            launcher.submit(in_flight.start, lambda number=number: launch(number), num_images=size)
            for number, size in enumerate(sizes)
        ]
        starting[2].result(SECONDS)
        assert not starting[3].done()
        for event, future in zip(may_finish, starting, strict=True):
            event.set()
            future.result(SECONDS).result(SECONDS)
            starting[3].result(SECONDS)  # begins where the first ends, with others still there
    assert seen == [{4}, {4}, {4, 2}, {4, 2, 1}, {30}, {2}, {9}]


def test_a_launch_that_fails_takes_no_room():
    in_flight = BatchesInFlight[int](most=1, num_threads=1)

    def failing():
        raise MemoryError("too large")

    for _ in range(3):
        with pytest.raises(MemoryError):
            in_flight.start(failing, num_images=1)
    assert in_flight.start(lambda: lambda: 7, num_images=9).result(SECONDS) == 7


def test_what_fails_in_the_end_takes_no_room_either():
    in_flight = BatchesInFlight[int](most=1, num_threads=1)
    for _ in range(3):
        future = in_flight.start(lambda: lambda: 1 // 0, num_images=1)
        with pytest.raises(ZeroDivisionError):
            future.result(SECONDS)


def test_draining_waits_for_all_that_was_launched():
    in_flight = BatchesInFlight[int](most=3, num_threads=1)
    assert not in_flight.drain()
    may_finish = threading.Event()
    futures = [
        in_flight.start(lambda: lambda: may_finish.wait(SECONDS), num_images=1) for _ in range(3)
    ]
    threading.Timer(0.2, may_finish.set).start()
    assert in_flight.drain()
    assert all(future.done() for future in futures)
    assert not in_flight.drain()
