"""Colours in another light: within the published bounds, and all of them reached."""

import colorsys

import numpy as np

from pipeline.training.colour import colour_jitter

GREYS = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def jittered(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    before = pixels.copy()
    made = [colour_jitter(pixels, random=np.random.default_rng(seed)) for seed in range(count)]
    np.testing.assert_array_equal(pixels, before)  # no argument is changed in place
    return made


def test_grey_stays_grey_and_brighter_stays_brighter() -> None:
    for made in jittered(GREYS, 100):
        assert (made == made[..., :1]).all()
        assert (np.diff(made[0, :, 0].astype(int)) >= 0).all()


def test_brightness_adds_up_to_32_levels_and_contrast_is_half_to_one_and_a_half() -> None:
    made = np.stack([each[0, :, 0] for each in jittered(GREYS, 600)]).astype(float)
    # Where neither end is cut off: a line of one slope, moved.
    slopes = (made[:, 130] - made[:, 90]) / 40
    shifts = (made[:, 90] - 90)[slopes == 1]
    assert 0.5 - 0.03 <= slopes.min() < 0.55
    assert 1.45 < slopes.max() <= 1.5 + 0.03
    assert -32 <= shifts.min() < -29
    assert 29 < shifts.max() <= 32
    assert 0.4 < np.mean(slopes == 1) < 0.6
    assert 0.4 < np.mean(shifts == 0) < 0.6


def test_hue_moves_by_a_tenth_of_the_circle_and_saturation_by_half_at_most() -> None:
    colour = np.array([[[100, 140, 120]]], np.uint8)
    hue, saturation, _ = colorsys.rgb_to_hsv(*(colour[0, 0] / 255))
    found = np.array(
        [colorsys.rgb_to_hsv(*(made[0, 0] / 255))[:2] for made in jittered(colour, 600)]
    )
    turns, factors = found[:, 0] - hue, found[:, 1] / saturation
    assert -0.1 - 0.02 <= turns.min() < -0.09
    assert 0.09 < turns.max() <= 0.1 + 0.02
    assert 0.5 - 0.08 <= factors.min() < 0.6
    # Additive brightness makes colours paler or stronger too: (140 - 32) / (140) of the value.
    assert 1.4 < factors.max() <= 1.5 * 140 / 108 + 0.08
    assert 0.4 < np.mean(abs(turns) < 0.01) < 0.65  # about half keep their hue


def test_the_same_chance_gives_the_same_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    first, again = jittered(pixels, 20), jittered(pixels, 20)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({made.tobytes() for made in first}) > 15
