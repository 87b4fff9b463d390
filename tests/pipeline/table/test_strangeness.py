"""Strangeness: one value on the review page, in a queue and in the nightly report."""

import numpy as np
import pytest

from pipeline.nightly.reporting.outliers import find_outliers
from pipeline.nightly.reporting.run_data import Measured, Quantiles, RunData
from pipeline.table.strangeness import strangeness, surprises


def test_it_is_the_outlier_score_of_the_nightly_report():
    random = np.random.default_rng(4)
    columns = {
        "mean_score": random.beta(9, 2, 300).astype(np.float32),
        "coverage": random.beta(9, 1, 300).astype(np.float32),
        "surprise": random.gamma(2, 1, 300).astype(np.float32),
    }
    columns["mean_score"][::50] = np.nan  # images without a segment
    columns["surprise"][::50] = np.nan
    quantiles = {
        name: Quantiles(**dict(zip(
            ("low", "median", "high"), np.nanquantile(values, [0.05, 0.5, 0.95]), strict=True
        )))
        for name, values in columns.items()
    }  # fmt: skip
    measured = [
        Measured(
            unit_id="u",
            image_id=f"{number:03}",
            **{
                name: None if np.isnan(values[number]) else float(values[number])
                for name, values in columns.items()
            },
        )
        for number in range(300)
    ]
    run = RunData(
        aggregates=None,  # type: ignore[arg-type]
        num_units=1,
        quantiles=quantiles,
        extremes=tuple(measured),
        sample=(),
    )
    expected = {each.image_id: each.score for each in find_outliers(run, count=300)}
    found = strangeness(**columns)
    for number, score in enumerate(found.tolist()):
        assert score == pytest.approx(expected[f"{number:03}"], abs=2e-3)


def test_surprise_is_the_mean_over_an_images_pixels():
    images = np.array([0, 0, 2], np.int32)
    labels = np.array([0, 1, 1], np.int32)
    areas = np.array([60, 20, 20], np.int64)
    found = surprises(images, labels, areas, num_images=3, num_labels=3)
    common, rare = -np.log(0.6), -np.log(0.4)
    assert found[0] == pytest.approx((60 * common + 20 * rare) / 80)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(rare)


def test_a_table_in_which_all_images_agree_has_no_strange_one():
    same = np.full(5, 0.9, np.float32)
    assert (strangeness(mean_score=same, coverage=same, surprise=same) == 0).all()
    nothing = np.full(5, np.nan, np.float32)
    assert np.isnan(strangeness(mean_score=nothing, coverage=nothing, surprise=nothing)).all()
