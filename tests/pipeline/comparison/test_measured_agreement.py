"""Agreement of two tables: PQ as the metric has it, areas as pixels have it, counts by hand."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer import PanopticQuality, encode_segments
from pipeline.comparison.agreement import measure_agreement
from pipeline.comparison.common_labels import common_labels
from pipeline.comparison.pairs import PairedImages

NAMES = ("car", "sky", "tree")
LABELS = common_labels(NAMES, NAMES)
SIZE = (12, 14)


def paired(images: list[tuple[np.ndarray, np.ndarray]], label_of: list[int]) -> PairedImages:
    """Images as maps of segments; segment n has the label `label_of[n - 1]`."""
    count = len(images)
    image, is_second, label, rles = [], [], [], []
    for number, pair in enumerate(images):
        for side, ids in enumerate(pair):
            shapes = encode_segments(ids)
            rles += shapes.rles
            image += [number] * len(shapes.rles)
            is_second += [side == 1] * len(shapes.rles)
            label += [label_of[segment - 1] for segment in shapes.ids.tolist()]
    return PairedImages(
        image_ids=pa.array([f"{n:03}" for n in range(count)]),
        is_there=np.ones((2, count), bool),
        is_ok=np.ones((2, count), bool),
        heights=np.full((2, count), SIZE[0]),
        widths=np.full((2, count), SIZE[1]),
        image=np.array(image, np.int64),
        is_second=np.array(is_second, bool),
        label=np.array(label, np.int64),
        rle=pa.array(rles, pa.string()),
    )


def with_void_as_a_label(ids: np.ndarray, label_of: list[int]) -> dict:
    """A picture whose void is a segment of a label of its own."""
    found = np.where(ids == 0, 99, ids)
    infos = [
        {"id": each, "label_id": len(NAMES) if each == 99 else label_of[each - 1]}
        for each in np.unique(found).tolist()
    ]
    return {"segmentation": found, "segments_info": infos}


def metric(images, label_of) -> PanopticQuality:
    quality = PanopticQuality(len(NAMES) + 1, things=())
    for one, two in images:
        pictures = [with_void_as_a_label(ids, label_of) for ids in (two, one)]
        quality.update(*pictures)
    return quality


@st.composite
def map_pairs(draw):
    """Two maps of ids that mostly agree."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarse = random.integers(0, 6, (3, 7))
    one = np.kron(coarse, np.ones((4, 2), int))
    two = one.copy()
    noise = random.random(SIZE) < draw(st.sampled_from([0, 0.1, 0.4]))
    two[noise] = random.integers(0, 6, SIZE)[noise]
    if draw(st.booleans()):
        two[two == 3] = 2
    return one.astype(np.int32), two.astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(map_pairs(), min_size=1, max_size=4),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_pq_is_that_of_the_metric_by_image_and_by_label(images, label_of):
    found = measure_agreement(paired(images, label_of), labels=LABELS)
    expected = [metric([pair], label_of).compute()["pq_per_label"][:-1] for pair in images]
    means = [np.nanmean(v) if not np.isnan(v).all() else None for v in expected]
    assert found.rows["pq"].to_pylist() == pytest.approx(means, abs=1e-6)
    assert np.allclose(
        found.sums.quality, metric(images, label_of).compute()["pq_per_label"][:-1], equal_nan=True
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(map_pairs(), min_size=1, max_size=4),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_areas_are_those_of_the_pixels(images, label_of):
    found = measure_agreement(paired(images, label_of), labels=LABELS)
    lookup = np.array([3, *label_of])
    matrix = np.zeros((4, 4), np.int64)
    shares = []
    for pair in images:
        one, two = (lookup[ids] for ids in pair)
        own = np.bincount((one * 4 + two).ravel(), minlength=16).reshape(4, 4)
        own[3, 3] = 0
        matrix += own
        shares.append(np.trace(own) / own.sum() if own.sum() else None)
    assert (found.sums.pixels == matrix).all()
    assert found.rows["area_same_label"].to_pylist() == pytest.approx(shares, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(map_pairs(), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_both_directions_say_the_same(images, label_of):
    there = measure_agreement(paired(images, label_of), labels=LABELS)
    back = measure_agreement(paired([(b, a) for a, b in images], label_of), labels=LABELS)
    for one, two in (("pq", "pq"), ("area_same_label",) * 2, ("lost", "gained"), ("kept", "kept")):
        assert there.rows[one].to_pylist() == pytest.approx(back.rows[two].to_pylist(), nan_ok=True)
    assert (there.sums.segments == back.sums.segments.T).all()


def test_segments_of_one_table_that_share_pixels_count_each_pixel_once():
    ids = np.zeros(SIZE, np.int32)
    ids[2:8, 2:10] = 1
    pairs = paired([(ids, ids)], [0, 1, 2])
    twice = PairedImages(
        **{
            **vars(pairs),
            "image": np.zeros(4, np.int64),
            "is_second": np.array([False, False, True, True]),
            "label": np.array([0, 1, 0, 2]),
            "rle": pa.concat_arrays([pairs.rle, pairs.rle]),
        }
    )
    found = measure_agreement(twice, labels=LABELS, may_overlap=True)
    (row,) = found.rows.to_pylist()
    assert row["area_same_label"] == 1  # the first of each has the pixels
    assert found.sums.pixels.sum() == 48
    assert (row["kept"], row["relabelled"], row["lost"], row["gained"]) == (1, 1, 0, 0)


def test_run_lengths_of_another_size_are_an_error_that_names_the_image():
    ids = np.ones(SIZE, np.int32)
    pairs = paired([(ids, ids)], [0])
    wrong = PairedImages(**{**vars(pairs), "heights": np.full((2, 1), 5)})
    with pytest.raises(ValueError, match=r"5 × 14; a segment of 000 in the first table is none"):
        measure_agreement(wrong, labels=LABELS)
