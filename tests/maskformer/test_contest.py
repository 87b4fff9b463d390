import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer import bilinear
from maskformer.contest import _by_bands, contest, first_argmax

sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(1, 7), st.integers(1, 4))
def test_line_by_line_the_winners_and_areas_are_those_of_the_resized_maps(
    height, width, new_height, new_width, num_maps, num_threads
):
    maps = torch.rand(num_maps, height, width).round(decimals=1)
    size = (new_height, new_width)
    whole = bilinear.resize(maps, size)
    torch.testing.assert_close(
        whole,
        torch.nn.functional.interpolate(maps[None], size=size, mode="bilinear")[0],
        atol=1e-5,
        rtol=0,
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = contest(maps, size, thresholds=torch.full((num_maps,), 0.5))
    finally:
        torch.set_num_threads(threads_before)
    first = (whole == whole.amax(0)).int().numpy().argmax(0)
    assert (found.winner.numpy() == first).all()
    assert found.areas.tolist() == (whole >= 0.5).sum((1, 2)).tolist()


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(1, 7), st.sampled_from([1, 500, 5_000, 1 << 30]))
def test_bands_of_any_size_give_what_lines_give(
    height, width, new_height, new_width, num_maps, byte_budget
):
    maps = torch.rand(num_maps, height, width).round(decimals=1)
    thresholds = torch.full((num_maps,), 0.5)
    rows, columns = bilinear.places_2d((height, width), (new_height, new_width), bilinear.CPU)
    by_lines = contest(maps, (new_height, new_width), thresholds=thresholds)
    by_bands = _by_bands(
        maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=byte_budget
    )
    assert torch.equal(by_bands.winner, by_lines.winner)
    assert torch.equal(by_bands.areas, by_lines.areas)


def test_without_thresholds_nothing_is_counted():
    assert contest(torch.ones(2, 3, 3), (6, 6), thresholds=None).areas.tolist() == [0, 0]


@pytest.mark.parametrize("num_maps", [1, 2, 255, 256, 300])
def test_of_maps_that_are_equally_high_the_first_wins(num_maps):
    maps = torch.zeros(num_maps, 2, 3)
    assert (first_argmax(maps) == 0).all()
    maps[-1, 0, 0] = 1
    assert first_argmax(maps)[0, 0] == num_maps - 1
