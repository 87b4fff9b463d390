import numpy as np
import pytest
import torch

from maskformer.bilinear import interpolation_grid
from maskformer.postprocessing import score_sum
from maskformer.postprocessing.geometry import Crop
from maskformer.postprocessing.score_sum import ScoreSum

CPU = torch.device("cpu")


def crop(seed, *, size, band):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(5, 6, 7, generator=generator)
    rows = interpolation_grid(6, size[0], CPU)[band]
    return Crop(maps=maps, rows=rows, columns=interpolation_grid(7, size[1], CPU))


@pytest.mark.parametrize("way", ["compiled", "any device"])
def test_the_sum_is_that_of_the_resized_scores_by_their_weights(way, monkeypatch):
    if way == "any device":
        # As if the scores were elsewhere: torch adds them.
        monkeypatch.setattr(score_sum, "CPU", torch.device("meta"))
    one = crop(0, size=(20, 30), band=slice(4, 13))
    other = crop(1, size=(11, 17), band=slice(0, 8))
    weights = np.linspace(0.1, 1, 8, dtype=np.float32), np.linspace(1, 0.2, 17, dtype=np.float32)
    total = ScoreSum(num_labels=5, num_rows=9, width=30, device=CPU)
    total.add(one)
    total.add(other, row=1, column=12, row_weights=weights[0], column_weights=weights[1])
    expected = one.resized()
    outer = torch.from_numpy(np.outer(*weights))
    expected[:, 1:9, 12:29] += other.resized() * outer
    assert torch.equal(total.leaders().long(), expected.argmax(0))
    assert len(total.leaders().unique()) > 2


def test_reversed_places_give_the_mirror_image():
    scores = crop(0, size=(20, 30), band=slice(0, 20))
    mirrored = Crop(maps=scores.maps, rows=scores.rows, columns=scores.columns.reversed())
    assert torch.equal(mirrored.resized(), scores.resized().flip(-1))
