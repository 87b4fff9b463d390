"""What a step learns from is a matter of the seed and the step alone."""

from collections import Counter

import numpy as np
import pytest

from pipeline.training.sampler import (
    Mixture,
    SampleIndex,
    epoch_order,
    sample_random,
    step_indices,
    worker_share,
)


def indices(step: int, *, seed: int = 1) -> list[SampleIndex]:
    return step_indices(step, global_batch=4, num_images=10, seed=seed)


def test_every_image_comes_once_in_every_epoch() -> None:
    seen = Counter(sample_index for step in range(10) for sample_index in indices(step))
    assert seen == Counter(SampleIndex(epoch=e, index=i) for e in range(4) for i in range(10))


def test_a_step_may_hold_the_end_of_one_epoch_and_the_beginning_of_the_next() -> None:
    assert [sample_index.epoch for sample_index in indices(2)] == [0, 0, 1, 1]


def test_a_batch_larger_than_the_data_goes_through_several_epochs() -> None:
    found = step_indices(0, global_batch=7, num_images=3, seed=1)
    assert [sample_index.epoch for sample_index in found] == [0, 0, 0, 1, 1, 1, 2]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(epoch_order(50, epoch=epoch, seed=seed)) for epoch in range(3) for seed in range(3)
    ]
    assert len(set(orders)) == 9


def test_the_order_stays_what_it_was() -> None:
    """A run that goes on under another version of numpy must find the same."""
    assert epoch_order(10, epoch=0, seed=1).tolist() == [5, 4, 3, 2, 6, 9, 0, 1, 7, 8]
    assert epoch_order(10, epoch=1, seed=1).tolist() == [1, 4, 0, 7, 5, 3, 6, 9, 8, 2]


def test_who_is_given_an_order_cannot_change_it_for_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(10, epoch=0, seed=1)[0] = 3


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_workers_share_a_step_without_rest(world_size: int, micro_batches: int) -> None:
    step = step_indices(3, global_batch=13, num_images=10, seed=1)
    shares = [
        worker_share(step, rank=rank, world_size=world_size, micro_batches=micro_batches)
        for rank in range(world_size)
    ]
    assert Counter(p for share in shares for micro in share for p in micro) == Counter(step)
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(share) == micro_batches and all(share) for share in shares)


def test_a_batch_too_small_for_its_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="4 images for 2 workers with 3 micro-batches each"):
        worker_share(indices(0), rank=0, world_size=2, micro_batches=3)


def test_chance_differs_between_images_and_epochs_and_not_between_calls() -> None:
    def draw(epoch: int, index: int, seed: int) -> float:
        return sample_random(SampleIndex(epoch=epoch, index=index), seed=seed).random()

    numbers = [draw(e, i, s) for e in range(3) for i in range(3) for s in range(3)]
    assert len(set(numbers)) == 27
    assert numbers == [draw(e, i, s) for e in range(3) for i in range(3) for s in range(3)]
    first = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0, 0))).random()
    assert first not in numbers  # the order's own chance is another


MIXTURE = Mixture(sizes=(30, 7), weights=(0.7, 0.3))


def mixed_indices(step: int, *, batch: int = 4, mixture: Mixture = MIXTURE) -> list[SampleIndex]:
    return step_indices(step, global_batch=batch, num_images=37, seed=1, mixture=mixture)


def test_data_sets_are_drawn_by_their_weights() -> None:
    drawn = [each.index for step in range(2500) for each in mixed_indices(step)]
    assert sum(index < 30 for index in drawn) == 7000
    shares = [np.mean(np.array(drawn[at : at + 400]) < 30) for at in range(0, 10_000, 400)]
    assert 0.6 < min(shares) <= max(shares) < 0.8


def test_each_data_set_has_epochs_of_its_own() -> None:
    drawn = [each for step in range(500) for each in mixed_indices(step)]
    for first, size in ((0, 30), (30, 7)):
        seen = [each for each in drawn if first <= each.index < first + size]
        for epoch in range(len(seen) // size):
            of_epoch = seen[epoch * size : (epoch + 1) * size]
            assert {each.epoch for each in of_epoch} == {epoch}
            assert {each.index for each in of_epoch} == set(range(first, first + size))


def test_a_mixture_does_not_depend_on_the_batch_nor_on_the_steps_before() -> None:
    # Across the end of a round, too.
    steps = range(2490, 2510)
    there = {step: mixed_indices(step) for step in reversed(steps)}
    flat = [each for step in steps for each in there[step]]
    assert flat == [each for step in range(1245, 1255) for each in mixed_indices(step, batch=8)]


def test_weights_that_are_no_shares_are_refused() -> None:
    for weights, message in (
        ((1.0,), "one for each of 2 data sets, got 1"),
        ((1.0, 0.0), "above 0"),
        ((1.0, 1e-6), "at least a 10,000th"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture(sizes=(30, 7), weights=weights)
    assert Mixture(sizes=(1, 2, 3), weights=(1, 1, 1)).draws == (3333, 3334, 3333)
