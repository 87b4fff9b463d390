"""Batches made a step ahead, in a thread: the same ones, in order, and with their errors."""

import threading
from collections.abc import Iterator

import pytest
import torch
from tiny_training import drawn_batch

from pipeline.training.batches import Batch
from pipeline.training.prefetch import prefetched

SECONDS = 60


class Steps:
    """Steps of one batch each; tells of each that it is being made."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.began = [threading.Event() for _ in range(count)]
        self._fails_at = fails_at
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[list[Batch]]:
        for step, event in enumerate(self.began):
            event.set()
            self.threads.add(threading.get_ident())
            if step == self._fails_at:
                raise ValueError(f"of step {step}")
            yield [drawn_batch([step], num_masks=[2])]


def test_the_next_step_is_made_in_a_thread_while_this_one_is_taken() -> None:
    steps = Steps(4)
    batches = prefetched(iter(steps), device="cpu")
    first = next(batches)
    assert steps.began[1].wait(SECONDS)
    assert not steps.began[2].is_set()
    rest = list(batches)
    assert [batch.image_ids for [batch] in [first, *rest]] == [["0"], ["1"], ["2"], ["3"]]
    expected = drawn_batch([2], num_masks=[2])
    assert torch.equal(rest[1][0].pixel_values, expected.pixel_values)
    assert threading.get_ident() not in steps.threads


def test_an_error_is_raised_at_its_step() -> None:
    batches = prefetched(iter(Steps(3, fails_at=1)), device="cpu")
    assert len(next(batches)) == 1
    with pytest.raises(ValueError, match="of step 1"):
        next(batches)


def test_who_leaves_early_waits_for_nothing() -> None:
    is_asked, may_go_on = threading.Event(), threading.Event()

    def steps() -> Iterator[list[Batch]]:
        yield [drawn_batch([0], num_masks=[1])]
        is_asked.set()
        may_go_on.wait(SECONDS)
        yield [drawn_batch([1], num_masks=[1])]

    batches = prefetched(steps(), device="cpu")
    next(batches)
    assert is_asked.wait(SECONDS)
    batches.close()  # type: ignore[attr-defined]
    may_go_on.set()


def test_no_step_at_all_is_the_end() -> None:
    assert list(prefetched(iter([]), device="cpu")) == []
