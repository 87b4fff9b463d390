import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskformer.metrics import BoundaryIoU, boundary_iou, boundary_of

label_maps = st.tuples(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.sampled_from([0, 1, 2, 255]),
    ),
    st.integers(1, 6),
    st.integers(1, 6),
).map(lambda drawn: np.kron(drawn[0], np.ones(drawn[1:], np.uint8)))


def published_boundary(mask, *, distance):
    """The mask less what is left when it is eroded, step by step, from outside the image too."""
    steps = max(1, round(distance * math.hypot(*mask.shape)))
    left = np.pad(mask, 1)
    for _ in range(steps):
        padded = np.pad(left, 1, constant_values=False)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        left = windows.all((2, 3))
    return mask & ~left[1:-1, 1:-1]


@settings(max_examples=150)
@given(label_maps, st.sampled_from([0.02, 0.1, 0.3]))
def test_each_labels_boundary_is_the_published_one(labels, distance):
    boundary = boundary_of(labels, distance=distance)
    for label in np.unique(labels):
        expected = published_boundary(labels == label, distance=distance)
        assert (boundary[labels == label] == expected[labels == label]).all()


def test_sums_over_images_are_those_of_each_labels_boundary():
    random = np.random.default_rng(0)
    metric = BoundaryIoU(3, 255)
    both, either = np.zeros(3), np.zeros(3)
    for _ in range(5):
        target = np.kron(random.choice([0, 1, 2], (4, 5)), np.ones((15, 20), int))
        prediction = np.where(random.random(target.shape) < 0.01, 2, np.roll(target, 1, 1))
        metric.update(prediction, target)
        for label in range(3):
            masks = [
                published_boundary(labels == label, distance=0.02)
                for labels in (prediction, target)
            ]
            both[label] += (masks[0] & masks[1]).sum()
            either[label] += (masks[0] | masks[1]).sum()
    result = metric.compute()
    assert result["boundary_iou_per_label"] == pytest.approx((both / either).tolist())
    assert result["boundary_miou"] == pytest.approx((both / either).mean())


def test_two_masks_have_the_iou_of_their_boundaries():
    target = np.zeros((100, 100), bool)
    target[20:80, 20:80] = True
    grown = np.zeros_like(target)
    grown[19:81, 19:81] = True
    masks = [published_boundary(mask, distance=0.02) for mask in (grown, target)]
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert boundary_iou(grown, target) == pytest.approx(expected)
    # Nine tenths of the area, half of the outline.
    assert expected < 0.6 < (target & grown).sum() / (target | grown).sum()
    assert math.isnan(boundary_iou(np.zeros_like(target), np.zeros_like(target)))


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    target = np.zeros((40, 40), np.uint8)
    target[:, 20:] = 1
    target[10:30, 5:15] = 255
    metric = BoundaryIoU(2, 255)
    metric.update(np.where(target == 255, 1, target), target)
    assert metric.compute()["boundary_miou"] == 1


def test_shards_merged_are_the_whole_exactly():
    random = np.random.default_rng(1)
    images = random.integers(0, 3, (6, 2, 12, 14))
    whole, *shards = (BoundaryIoU(3) for _ in range(4))
    for place, (prediction, target) in enumerate(images):
        whole.update(prediction, target)
        shards[place % 3].update(prediction, target)
    np.testing.assert_equal(shards[2].merge(shards[0]).merge(shards[1]).compute(), whole.compute())
    with pytest.raises(ValueError, match="distance"):
        whole.merge(BoundaryIoU(3, distance=0.1))
