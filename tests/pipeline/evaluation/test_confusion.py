"""The confusion picture shows each label's row, for few labels and for many."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.confusion import confusion_picture

DARK, PALE = (8, 48, 107), (235, 235, 235)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(1 << 24)}


def test_a_perfect_row_is_dark_and_one_without_truth_is_grey() -> None:
    confusion = np.array([[5, 0, 0], [0, 0, 0]])
    picture = confusion_picture(confusion, names=["sky", "sea"], iou=[1.0, float("nan")])
    assert {DARK, PALE} <= colours(picture)
    half = np.array([[5, 5, 0], [5, 5, 0]])
    assert DARK not in colours(confusion_picture(half, names=["sky", "sea"], iou=[0.3] * 2))


def even(count: int) -> tuple[np.ndarray, dict[str, Any]]:
    names = [f"label number {index}" for index in range(count)]
    return np.eye(count, count + 1, dtype=np.int64), {"names": names, "iou": [0.5] * count}


@pytest.mark.parametrize("count", [19, 150, pytest.param(847, marks=pytest.mark.faults)])
def test_the_picture_stays_of_a_size_to_look_at(count: int) -> None:
    confusion, texts = even(count)
    assert max(confusion_picture(confusion, **texts).size) < 7 * max(count, 230)


def test_what_has_no_label_is_a_column_of_its_own() -> None:
    confusion, texts = even(19)
    width = confusion_picture(confusion, **texts).width
    confusion[0, -1] = 1
    assert confusion_picture(confusion, **texts).width > width
