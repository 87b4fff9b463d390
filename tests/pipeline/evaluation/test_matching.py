"""Labels of the model and of the data are the same if their names are."""

import pytest

from pipeline.evaluation.matching import match_labels
from pipeline.labelled.target import Labels

DATA = Labels(names=("sky", "road", "car"), things=frozenset({2}))


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        (["sky", "road", "car"], "semantic", (0, 1, 2)),
        (["car", "sky", "road"], "panoptic", (2, 0, 1)),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "semantic", (0, 1, 2)),
        (["car"], "instance", (2,)),
    ],
)
def test_names_decide_and_numbers_where_there_are_none(
    model: list[str], task: str, expected: tuple[int, ...]
) -> None:
    assert match_labels(model, DATA, task=task) == expected


@pytest.mark.parametrize(
    ("model", "task", "pieces"),
    [
        (
            ["sky", "road", "bus"],
            "semantic",
            ["only the model has 'bus'", "only the data has 'car'"],
        ),
        (["car"], "panoptic", ["only the model has none", "'sky', 'road'"]),
        (["sky", "road", "car", "car"], "semantic", ["same names"]),
        (["LABEL_0", "LABEL_1"], "semantic", ["2 labels without names", "3 labels"]),
    ],
)
def test_labels_that_differ_are_named(model: list[str], task: str, pieces: list[str]) -> None:
    with pytest.raises(ValueError, match="label") as caught:
        match_labels(model, DATA, task=task)
    for piece in pieces:
        assert piece in str(caught.value)


def test_the_same_names_twice_are_matched_only_in_the_same_order() -> None:
    data = Labels(names=("door", "door", "wall"))
    assert match_labels(["door", "door", "wall"], data, task="semantic") == (0, 1, 2)
    with pytest.raises(ValueError, match="same names"):
        match_labels(["wall", "door", "door"], data, task="semantic")
