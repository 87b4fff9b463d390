"""Colours that people expect, and the same one in every picture."""

import itertools

import pytest

from pipeline.table.label_colours import label_colour, segment_colour


@pytest.mark.parametrize("name", ["sky", "Sky", "sky-other-merged", "sky (cloudy)"])
def test_the_sky_is_blue(name):
    red, green, blue = label_colour(name, 7)
    assert blue > green > red


@pytest.mark.parametrize("name", ["tree", "palm tree", "tree-merged", "grass-merged", "plant"])
def test_what_grows_is_green(name):
    red, green, blue = label_colour(name, 3)
    assert green > red
    assert green > blue


def test_the_last_known_word_decides():
    assert label_colour("water tower", 1) == label_colour("tower", 9)
    assert label_colour("swimming pool", 1) == label_colour("water", 2)


def test_a_word_within_another_decides_nothing():
    assert label_colour("carpet", 4) != label_colour("car", 4)


def test_unknown_names_are_apart_by_their_numbers():
    colours = [label_colour("something", number) for number in range(12)]
    for one, other in itertools.combinations(colours, 2):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 20


def test_segments_of_one_label_differ_in_brightness_alone():
    first, second = segment_colour("sky", 0, 1), segment_colour("sky", 0, 2)
    assert first != second
    assert first[0] / first[2] == pytest.approx(second[0] / second[2])
