"""The contact sheet shows photo, truth and prediction in the same colours."""

import numpy as np
import pytest
from drawn_labels import LABELS, scenes
from predicted import judge, predicted, predicted_rows

from pipeline.datasets.dataset import LabelledImages
from pipeline.evaluation.worst import WorstImage, worst_sheet


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
def test_a_perfect_prediction_is_drawn_as_its_truth(dataset: LabelledImages, task: str) -> None:
    scene = scenes(1)[0]
    [row] = predicted_rows([predicted(scene)]).to_pylist()
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
    """Merges segments to one region for each label, as semantic rows are."""
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
