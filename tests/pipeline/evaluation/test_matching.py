"""Labels of the model and of the data are the same if their names are."""

import pytest

from pipeline.datasets.target import Labels
from pipeline.evaluation.matching import (
    UNMATCHED,
    match_to_data_labels,
    stuff_to_fuse,
    unmatched_lines,
)

DATA = Labels(names=("sky", "road", "car"), things=frozenset({2}))


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        (["sky", "road", "car"], "semantic", (0, 1, 2)),
        (["car", "sky", "road"], "panoptic", (2, 0, 1)),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "semantic", (0, 1, 2)),
        (["car"], "instance", (2,)),
        (["bus", "car", "road", "sky"], "semantic", (UNMATCHED, 2, 1, 0)),
        (["car", "sky", "road", "bus"], "instance", (2, 0, 1, UNMATCHED)),
        (["sea", "car"], "instance", (UNMATCHED, 2)),
    ],
)
def test_names_decide_and_numbers_where_there_are_none(
    model: list[str], task: str, expected: tuple[int, ...]
) -> None:
    assert match_to_data_labels(model, DATA, task=task) == expected


@pytest.mark.parametrize(
    ("model", "task", "pieces"),
    [
        (
            ["sky", "road", "bus"],
            "semantic",
            ["only the model has 'bus'", "only the data has 'car'"],
        ),
        (["car"], "panoptic", ["only the model has none", "'sky', 'road'"]),
        (["sky", "road", "car", "car"], "semantic", ["two labels have the same name"]),
        (["LABEL_0", "LABEL_1"], "semantic", ["2 labels without names", "3 labels"]),
    ],
)
def test_labels_that_differ_are_named(model: list[str], task: str, pieces: list[str]) -> None:
    with pytest.raises(ValueError, match="label") as caught:
        match_to_data_labels(model, DATA, task=task)
    for piece in pieces:
        assert piece in str(caught.value)


def test_the_same_names_twice_are_matched_only_in_the_same_order() -> None:
    data = Labels(names=("door", "door", "wall"))
    assert match_to_data_labels(["door", "door", "wall"], data, task="semantic") == (0, 1, 2)
    with pytest.raises(ValueError, match="two labels have the same name"):
        match_to_data_labels(["wall", "door", "door"], data, task="semantic")


def test_labels_that_the_data_has_not_are_stuff_by_the_model_and_named() -> None:
    model = ["sea", "car", "road", "dog"]
    data_label_of = match_to_data_labels(model, Labels(names=("road", "car")), task="panoptic")
    assert data_label_of == (UNMATCHED, 1, 0, UNMATCHED)
    assert stuff_to_fuse(data_label_of, things=frozenset({1}), model_stuff=(0, 2)) == (0, 2)
    assert stuff_to_fuse(data_label_of, things=frozenset({1})) == (2,)
    [line] = unmatched_lines(model, data_label_of)
    assert "2 of the model's 4 labels" in line
    assert "'sea', 'dog'" in line
