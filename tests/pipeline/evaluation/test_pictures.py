"""Pictures show each label's row, and photo, truth and prediction in the same colours."""

import numpy as np
import pytest
from drawn_labels import LABELS, scenes
from PIL import Image
from predicted import judge, predicted, rows_of

from pipeline.evaluation.pictures import WorstImage, confusion_picture, worst_sheet
from pipeline.labelled.dataset import LabelledImages

DARK, PALE = (8, 48, 107), (235, 235, 235)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(1 << 24)}


def test_a_perfect_row_is_dark_and_one_without_truth_is_grey() -> None:
    confusion = np.array([[5, 0, 0], [0, 0, 0]])
    picture = confusion_picture(confusion, names=["sky", "sea"], iou=[1.0, float("nan")])
    assert {DARK, PALE} <= colours(picture)
    half = np.array([[5, 5, 0], [5, 5, 0]])
    assert DARK not in colours(confusion_picture(half, names=["sky", "sea"], iou=[0.3] * 2))


@pytest.mark.parametrize("count", [19, 150, 847])
def test_the_picture_stays_of_a_size_to_look_at(count: int) -> None:
    confusion = np.eye(count, count + 1, dtype=np.int64)
    names = [f"label number {index}" for index in range(count)]
    picture = confusion_picture(confusion, names=names, iou=[0.5] * count)
    assert max(picture.size) < 7 * max(count, 230)
    # Where something has no label, it is a column of its own.
    confusion[0, -1] = 1
    assert confusion_picture(confusion, names=names, iou=[0.5] * count).width > picture.width


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
def test_a_perfect_prediction_is_drawn_as_its_truth(dataset: LabelledImages, task: str) -> None:
    scene = scenes(1)[0]
    [row] = rows_of([predicted(scene)]).to_pylist()
    segments = [
        {**segment, "label": LABELS[segment["label_id"]], "score": None}
        for segment in row["segments"]
    ]
    worst = WorstImage(
        image_id="scene-0",
        score=1.0,
        photo=scene.photo,
        target=dataset.target(0),
        segments=segments if task != "semantic" else _merged(segments, scene.label_map),
    )
    sheet = np.asarray(worst_sheet([worst], judge=judge(task), metric="pq"))
    _, truth, prediction = (sheet[26:-6, start : start + 480] for start in (0, 486, 972))
    np.testing.assert_array_equal(truth, prediction)
    assert (truth != sheet[26:-6, :480]).any()


def test_a_sheet_of_no_image_says_so() -> None:
    assert worst_sheet([], judge=judge("panoptic"), metric="pq").width > 100


def _merged(segments: list[dict], label_map: np.ndarray) -> list[dict]:
    """One region for each label, as semantic rows are."""
    from maskformer import encode_mask

    return [
        {
            "segment_id": label + 1,
            "label_id": label,
            "score": 0.9,
            "area": int((label_map == label).sum()),
            "rle": encode_mask(label_map == label),
        }
        for label in sorted({segment["label_id"] for segment in segments})
    ]
