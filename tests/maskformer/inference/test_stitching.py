import numpy as np
import pytest
import torch

from maskformer.inference.spans import spans
from maskformer.inference.stitching import Stitcher
from maskformer.postprocessing.segments import Segment, Segmentation

LEFT, RIGHT = spans(10, window=6, overlap=2)
WHOLE = spans(1, window=1, overlap=0)[0]
ROWS = spans(2, window=2, overlap=1)[0]


def window(rows, labels, scores=None):
    return Segmentation(
        segmentation=torch.tensor(rows, dtype=torch.int32),
        segments=tuple(
            Segment(id=place, label_id=label, score=(scores or [0.5] * 9)[place - 1])
            for place, label in enumerate(labels, start=1)
        ),
    )


def stitched(left, right, fused=()):
    stitcher = Stitcher((2, 10), label_ids_to_fuse=fused)
    stitcher.add(left, rows=ROWS, columns=LEFT)
    stitcher.add(right, rows=ROWS, columns=RIGHT)
    return stitcher.joined()


# Both windows see columns 4 and 5; the left one's core ends before 5.


def test_segments_that_agree_on_more_than_half_of_what_both_windows_see_are_one():
    found = stitched(
        window([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]], [7], [0.4]),
        window([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]], [7], [0.8]),
    )
    assert found.segmentation.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]] * 2
    assert [(s.id, s.label_id) for s in found.segments] == [(1, 7)]
    # Four pixels come of the left window, six of the right.
    assert found.segments[0].score == pytest.approx((4 * 0.4 + 6 * 0.8) / 10)


@pytest.mark.parametrize(
    ("right", "label"),
    [
        ([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]], 7),  # two of four pixels: half is not more
        ([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]], 6),  # another label
    ],
)
def test_segments_that_do_not_agree_or_have_other_labels_stay_two(right, label):
    left = window([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]], [7])
    found = stitched(left, window(right, [label]))
    assert [s.label_id for s in found.segments] == [7, label]


def test_labels_that_are_fused_are_one_segment_wherever_they_lie():
    left = window([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], [3])
    right = window([[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]], [3])
    found = stitched(left, right, fused={3})
    assert found.segmentation.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0, 1]] * 2
    assert [s.was_fused for s in found.segments] == [True]
    assert len(stitched(left, right).segments) == 2


def test_where_the_nearest_window_has_nothing_the_other_one_counts():
    left = window([[0, 0, 0, 0, 1, 1]] * 2, [0])
    right = window([[0, 0, 0, 1, 0, 0]] * 2, [0])
    found = stitched(left, right)
    assert found.segmentation.tolist() == [[0, 0, 0, 0, 1, 1, 0, 2, 0, 0]] * 2


def test_a_segment_without_a_pixel_left_has_no_row_and_ids_have_no_gap():
    left = window([[0, 2, 2, 0, 0, 1]] * 2, [0, 0])
    right = window([[0, 1, 1, 0, 0, 0]] * 2, [1])
    found = stitched(left, right)
    assert [(s.id, s.label_id) for s in found.segments] == [(1, 0), (2, 1)]
    assert found.segmentation.tolist() == [[0, 1, 1, 0, 0, 2, 2, 0, 0, 0]] * 2


def test_one_thing_in_many_windows_is_one_whatever_it_is_called_in_each():
    """A ring round four windows: no two opposite ones see a common part of it."""
    size = 20
    ring = np.zeros((size, size), int)
    ring[3:17, 3:17] = 1
    ring[6:14, 6:14] = 0
    stitcher = Stitcher((size, size), label_ids_to_fuse=())
    for rows in spans(size, window=11, overlap=2):
        for columns in spans(size, window=11, overlap=2):
            part = ring[rows.start : rows.stop, columns.start : columns.stop]
            stitcher.add(window(part.tolist(), [5]), rows=rows, columns=columns)
    found = stitcher.joined()
    assert len(found.segments) == 1
    assert (found.segmentation.numpy() == ring).all()


def test_windows_without_segments_make_a_map_of_void():
    found = stitched(window([[0] * 6] * 2, []), window([[0] * 6] * 2, []))
    assert found.segments == ()
    assert not found.segmentation.any()
