import math
import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskformer.metrics import MeanIoU

NUM_LABELS, IGNORED = 4, 255

pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORED])),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORED])),
    )
)


def mean_iou_of(images):
    metric = MeanIoU(NUM_LABELS, IGNORED)
    for prediction, target in images:
        metric.update(prediction, target)
    return metric


def published_iou(images):
    """IoU and accuracy of each label, from their definition, pixel by pixel."""
    pixels = [
        (predicted, true)
        for prediction, target in images
        for predicted, true in zip(
            prediction.ravel().tolist(), target.ravel().tolist(), strict=True
        )
        if true != IGNORED
    ]
    iou, accuracy = [], []
    for label in range(NUM_LABELS):
        both = sum(predicted == true == label for predicted, true in pixels)
        either = sum(label in pair for pair in pixels)
        present = sum(true == label for _, true in pixels)
        iou.append(both / either if present else math.nan)
        accuracy.append(both / present if present else math.nan)
    return iou, accuracy, pixels


@settings(max_examples=150)
@given(st.lists(pairs, min_size=1, max_size=4))
def test_it_counts_as_published_on_any_maps(images):
    iou, accuracy, pixels = published_iou(images)
    result = mean_iou_of(images).compute()
    assert result["iou_per_label"] == pytest.approx(iou, nan_ok=True)
    assert result["acc_per_label"] == pytest.approx(accuracy, nan_ok=True)
    known = [value for value in iou if not math.isnan(value)]
    weights = [sum(true == label for _, true in pixels) for label in range(NUM_LABELS)]
    if not known:
        assert math.isnan(result["miou"])
        assert math.isnan(result["pacc"])
        return
    assert result["miou"] == pytest.approx(sum(known) / len(known))
    assert result["macc"] == pytest.approx(np.nanmean(accuracy))
    assert result["pacc"] == pytest.approx(np.mean([one == other for one, other in pixels]))
    weighted = sum(w * v for w, v in zip(weights, iou, strict=True) if w)
    assert result["fwiou"] == pytest.approx(weighted / sum(weights))


@settings(max_examples=50)
@given(st.lists(pairs, min_size=2, max_size=6), st.randoms())
def test_mean_iou_of_shards_in_any_order_is_that_of_the_whole(images, random):
    shards = [mean_iou_of(images[start::3]) for start in range(3)]
    random.shuffle(shards)
    merged = MeanIoU(NUM_LABELS, IGNORED)
    for shard in shards:
        merged.merge(pickle.loads(pickle.dumps(shard)))
    np.testing.assert_equal(merged.compute(), mean_iou_of(images).compute())


def test_a_label_without_truth_is_left_out_but_its_predictions_count_against_others():
    metric = mean_iou_of([(np.array([[0, 0, 1, 2]]), np.array([[0, 0, 1, 1]]))])
    result = metric.compute()
    assert result["iou_per_label"][:2] == [1.0, 0.5]
    assert all(math.isnan(value) for value in result["iou_per_label"][2:])
    assert result["miou"] == 0.75


def test_predictions_on_ignored_pixels_do_not_count():
    target = np.array([[0, 1, IGNORED, IGNORED]])
    one, other = (
        mean_iou_of([(np.array([[0, 1, *rest]]), target)]).compute() for rest in ([0, 1], [3, 3])
    )
    np.testing.assert_equal(one, other)
    assert one["miou"] == 1


def test_where_nothing_is_predicted_the_truth_is_missed():
    result = mean_iou_of([(np.array([[0, IGNORED]]), np.array([[0, 0]]))]).compute()
    assert result["iou_per_label"][0] == 0.5
    assert result["pacc"] == 0.5


@pytest.mark.parametrize(
    "form",
    [
        lambda labels: labels.astype(np.uint16),
        lambda labels: labels.astype(np.int64),
        lambda labels: torch.from_numpy(labels.astype(np.int32)),
        lambda labels: Image.fromarray(labels),
    ],
)
def test_maps_of_any_form_and_type_count_alike(form):
    random = np.random.default_rng(0)
    prediction, target = random.choice([0, 1, 2, 3, IGNORED], (2, 20, 30)).astype(np.uint8)
    expected = mean_iou_of([(prediction, target)]).compute()
    np.testing.assert_equal(mean_iou_of([(form(prediction), form(target))]).compute(), expected)


def test_an_ignore_index_below_0_or_beyond_a_byte_is_one_too():
    for ignored, dtype in ((-1, np.int64), (65535, np.uint16)):
        metric = MeanIoU(2, ignored)
        metric.update(np.array([[0, 1]], dtype), np.array([[0, ignored]]).astype(dtype))
        assert metric.confusion.sum() == 1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 4]], [[0, 0]], r"labels are 0 to 3.*prediction has 4 \(1 pixels\)"),
        ([[0, 0]], [[7, 7]], r"target has 7 \(2 pixels\)"),
        ([[0, 0]], [[0, -1]], r"target has -1"),
        ([[0, 0]], [[0], [0]], r"\(1, 2\) and \(2, 1\)"),
        ([[0.0, 0.5]], [[0, 0]], "whole numbers"),
        ([0, 0], [0, 0], "whole numbers"),
    ],
)
def test_maps_that_do_not_fit_are_refused_and_count_nothing(prediction, target, message):
    metric = MeanIoU(NUM_LABELS, IGNORED)
    with pytest.raises(ValueError, match=message):
        metric.update(np.array(prediction), np.array(target))
    assert not metric.confusion.any()


def test_without_an_ignore_index_every_label_must_be_one():
    with pytest.raises(ValueError, match="255"):
        MeanIoU(4).update(np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8))


def test_metrics_of_different_labels_do_not_merge():
    with pytest.raises(ValueError, match="same num_labels"):
        MeanIoU(4, 255).merge(MeanIoU(5, 255))


def test_a_megapixel_takes_some_milliseconds():
    labels = np.random.default_rng(0).integers(0, 150, (1000, 1000)).astype(np.uint8)
    metric = MeanIoU(150, 255)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        metric.update(labels, labels)
        times.append(time.perf_counter() - start)
    # Some 8 ms on an idle core; the limit leaves room for what else runs there.
    assert min(times) < 0.05
