import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskformer import bilinear
from maskformer.postprocessing.mask_argmax import _by_bands, first_argmax, mask_argmax

# In eighths, grown by powers of two, values are not rounded on any processor; many are equal.
eighths = st.tuples(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 7),
    st.integers(0, 1 << 20),
)


def _in_eighths(height: int, width: int, num_maps: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(9, (num_maps, height, width), generator=generator) / 8


@given(eighths, st.integers(1, 4))
def test_line_by_line_the_winners_and_areas_are_those_of_the_resized_maps(drawn, num_threads):
    height, width, taller, wider, num_maps, seed = drawn
    maps = _in_eighths(height, width, num_maps, seed)
    size = (height * taller, width * wider)
    whole = torch.nn.functional.interpolate(maps[None], size=size, mode="bilinear")[0]
    assert torch.equal(bilinear.resize(maps, size), whole)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = mask_argmax(maps, size, thresholds=torch.full((num_maps,), 0.5))
    finally:
        torch.set_num_threads(threads_before)
    first = (whole == whole.amax(0)).int().numpy().argmax(0)
    assert (found.winner.numpy() == first).all()
    assert found.areas.tolist() == (whole >= 0.5).sum((1, 2)).tolist()


@given(eighths, st.sampled_from([1, 500, 5_000, 1 << 30]))
def test_bands_of_any_size_give_what_lines_give(drawn, byte_budget):
    height, width, taller, wider, num_maps, seed = drawn
    maps = _in_eighths(height, width, num_maps, seed)
    size = (height * taller, width * wider)
    thresholds = torch.full((num_maps,), 0.5)
    rows, columns = bilinear.interpolation_grids((height, width), size, bilinear.CPU)
    by_lines = mask_argmax(maps, size, thresholds=thresholds)
    by_bands = _by_bands(
        maps, rows=rows, columns=columns, thresholds=thresholds, byte_budget=byte_budget
    )
    assert torch.equal(by_bands.winner, by_lines.winner)
    assert torch.equal(by_bands.areas, by_lines.areas)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.integers(1, 7), st.integers(0, 1 << 20))
def test_at_any_size_the_winner_is_the_highest_and_areas_differ_by_values_at_the_threshold(
    height, width, new_height, new_width, num_maps, seed
):
    maps = torch.rand(num_maps, height, width, generator=torch.Generator().manual_seed(seed))
    whole = torch.nn.functional.interpolate(
        maps[None].double(), size=(new_height, new_width), mode="bilinear"
    )[0]
    found = mask_argmax(maps, (new_height, new_width), thresholds=torch.full((num_maps,), 0.5))
    of_the_winner = whole.gather(0, found.winner[None].long())[0]
    torch.testing.assert_close(of_the_winner, whole.amax(0), atol=1e-5, rtol=0)
    assert (found.areas >= (whole >= 0.5 + 1e-5).sum((1, 2))).all()
    assert (found.areas <= (whole >= 0.5 - 1e-5).sum((1, 2))).all()


def test_without_thresholds_nothing_is_counted():
    assert mask_argmax(torch.ones(2, 3, 3), (6, 6), thresholds=None).areas.tolist() == [0, 0]


@pytest.mark.parametrize("num_maps", [1, 2, 255, 256, 300])
def test_of_maps_that_are_equally_high_the_first_wins(num_maps):
    maps = torch.zeros(num_maps, 2, 3)
    assert (first_argmax(maps) == 0).all()
    maps[-1, 0, 0] = 1
    assert first_argmax(maps)[0, 0] == num_maps - 1
