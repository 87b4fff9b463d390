import json
import math
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskformer.metrics import PanopticQuality

NUM_LABELS, THINGS = 4, (0, 2)


def draw_truth(segmentation, labels, crowds=()):
    """`labels` maps the ids in the map to labels."""
    return {
        "segmentation": np.asarray(segmentation),
        "segments_info": [
            {"id": segment_id, "label_id": label, "iscrowd": int(segment_id in crowds)}
            for segment_id, label in labels.items()
        ],
    }


@st.composite
def picture_pairs(draw):
    """Blocky pictures of up to six segments on void, so that many match and many nearly do."""
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    block = draw(st.sampled_from([(1, 1), (2, 3), (3, 1)]))

    def one(coarse, *, can_crowd):
        ids = [int(i) for i in np.unique(coarse) if i]
        labels = {i: draw(st.integers(0, NUM_LABELS - 1)) for i in draw(st.permutations(ids))}
        # One crowd for each label: which of several counts is a matter of its own.
        crowds = {labels[i]: i for i in ids if can_crowd and draw(st.integers(0, 4)) == 0}
        pixels = np.kron(coarse, np.ones(block, coarse.dtype))
        return draw_truth(pixels, labels, tuple(crowds.values()))

    maps = hnp.arrays(np.int32, (height, width), elements=st.integers(0, 6))
    true = draw(maps)
    predicted = np.where(draw(hnp.arrays(bool, true.shape)), draw(maps), true)
    # Labels that agree where ids do, most of the time.
    prediction, target = one(predicted, can_crowd=False), one(true, can_crowd=True)
    known = {info["id"]: info["label_id"] for info in target["segments_info"]}
    for info in prediction["segments_info"]:
        if draw(st.integers(0, 5)):
            info["label_id"] = known.get(info["id"], info["label_id"])
    return prediction, target


def published_counts(images):
    """TP, FP, FN and the sum of IoU for each label, on sets of pixels.

    From Kirillov et al., "Panoptic Segmentation": a predicted and a true segment of one label match
    if their IoU is above one half, without the pixels that the truth leaves void. Unmatched truths
    are false negatives, unmatched predictions false positives, but for crowds, which match nothing,
    and for predictions with more than half of their pixels in void or in their label's crowd.
    """
    counts = defaultdict(Counter)
    for prediction, target in images:
        predicted, _ = pixel_sets(prediction)
        true, void = pixel_sets(target)
        label_of = {info["id"]: info["label_id"] for info in prediction["segments_info"]}
        matched = set()
        for info in target["segments_info"]:
            label = info["label_id"]
            if info.get("iscrowd"):
                continue
            for segment_id, pixels in predicted.items():
                if label_of[segment_id] != label:
                    continue
                both = len(true[info["id"]] & pixels)
                iou = both / len(true[info["id"]] | (pixels - void)) if both else 0
                if iou > 0.5:
                    matched.add(segment_id)
                    counts[label].update(tp=1, iou=iou)
                    break
            else:
                counts[label]["fn"] += 1
        for segment_id in predicted.keys() - matched:
            label = label_of[segment_id]
            excused = set(void)
            for info in target["segments_info"]:
                if info.get("iscrowd") and info["label_id"] == label:
                    excused |= true[info["id"]]
            pixels = predicted[segment_id]
            counts[label]["fp"] += len(pixels & excused) <= len(pixels) / 2
    return counts


def pixel_sets(panoptic):
    """The pixels of each segment, and the void ones."""
    pixels = defaultdict(set)
    for place, segment_id in enumerate(np.asarray(panoptic["segmentation"]).ravel().tolist()):
        pixels[segment_id].add(place)
    void = pixels.pop(0, set())
    return dict(pixels), void


def assert_as_published(result, images, *, num_labels):
    counts = published_counts(images)
    for label in range(num_labels):
        count = counts[label]
        found = [
            result[f"{name}_per_label"][label]
            for name in ("true_positives", "false_positives", "false_negatives")
        ]
        assert found == [count["tp"], count["fp"], count["fn"]], label
        halves = count["tp"] + (count["fp"] + count["fn"]) / 2
        expected = {
            "pq": count["iou"] / halves if halves else math.nan,
            "rq": count["tp"] / halves if halves else math.nan,
            "sq": count["iou"] / max(count["tp"], 1) if halves else math.nan,
        }
        for name, value in expected.items():
            assert result[f"{name}_per_label"][label] == pytest.approx(value, nan_ok=True)


def panoptic_quality_of(images, num_labels=NUM_LABELS, things=THINGS):
    metric = PanopticQuality(num_labels, things)
    for prediction, target in images:
        metric.update(prediction, target)
    return metric


@settings(max_examples=150)
@given(st.lists(picture_pairs(), min_size=1, max_size=3))
def test_it_counts_as_published_on_any_pictures(images):
    result = panoptic_quality_of(images).compute()
    assert_as_published(result, images, num_labels=NUM_LABELS)
    for name in ("pq", "sq", "rq"):
        values = np.array(result[f"{name}_per_label"])
        for group, labels in (("", range(4)), ("_things", THINGS), ("_stuff", (1, 3))):
            known = [values[label] for label in labels if not math.isnan(values[label])]
            expected = sum(known) / len(known) if known else math.nan
            assert result[name + group] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=60)
@given(st.lists(picture_pairs(), min_size=2, max_size=7), st.randoms())
def test_shards_merged_in_any_order_are_the_whole_exactly(images, random):
    shards = [panoptic_quality_of(images[start::3]) for start in range(3)]
    random.shuffle(shards)
    merged = PanopticQuality(NUM_LABELS, THINGS)
    for shard in shards:
        merged.merge(pickle.loads(pickle.dumps(shard)))
    np.testing.assert_equal(merged.compute(), panoptic_quality_of(images).compute())


@settings(max_examples=60)
@given(picture_pairs())
def test_a_truth_against_itself_is_perfect(pair):
    _, target = pair
    result = panoptic_quality_of([(target, target)]).compute()
    has_segments = any(not info["iscrowd"] for info in target["segments_info"])
    assert result["pq"] == pytest.approx(1 if has_segments else math.nan, nan_ok=True)


def test_an_iou_of_one_half_is_no_match():
    target = draw_truth([[1, 1, 1, 0, 2]], {1: 0, 2: 1})
    half = draw_truth([[1, 1, 0, 0, 1]], {1: 0})
    result = panoptic_quality_of([(half, target)]).compute()
    assert result["true_positives_per_label"] == [0, 0, 0, 0]
    assert result["false_positives_per_label"][0] == 1
    assert result["sq"] == 0


def test_of_several_crowds_of_a_label_the_last_excuses():
    target = draw_truth([[1, 1, 2, 2]], {1: 0, 2: 0}, crowds=(1, 2))
    on_first, on_last = draw_truth([[5, 5, 0, 0]], {5: 0}), draw_truth([[0, 0, 5, 5]], {5: 0})
    assert panoptic_quality_of([(on_first, target)]).false_positives[0] == 1
    assert panoptic_quality_of([(on_last, target)]).false_positives[0] == 0


def test_tensors_count_as_arrays_do_and_ids_may_be_as_large_as_cocos():
    target = draw_truth([[1, 1, 2, 0]], {1: 0, 2: 1})
    prediction = {
        "segmentation": torch.tensor([[16777215, 16777215, 3, 3]], dtype=torch.int32),
        "segments_info": [{"id": 3, "label_id": 1}, {"id": 16777215, "label_id": 0}],
    }
    assert panoptic_quality_of([(prediction, target)]).compute()["pq"] == 1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (draw_truth([[1, 2]], {1: 0}), None, r"prediction's map has a row.*none for \[2\]"),
        (draw_truth([[1, -1]], {1: 0}), None, r"none for \[-1\]"),
        (draw_truth([[1, 1]], {1: 0, 3: 0}), None, r"ids without any: \[3\]"),
        (draw_truth([[1, 1]], {1: 4}), None, r"labels are 0 to 3.*4 \(id 1\)"),
        (draw_truth([[1, 1]], {1: 0, 0: 1}), None, "0 is void"),
        (draw_truth([[1], [1]], {1: 0}), None, r"\(2, 1\) and \(1, 2\)"),
        (draw_truth([[1, 1]], {1: 0}), draw_truth([[1, 5]], {1: 0}), "a target's map"),
        ({"segmentation": [[1, 1]]}, None, r"got \['segmentation'\]"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_and_count_nothing(prediction, target, message):
    metric = PanopticQuality(NUM_LABELS, THINGS)
    with pytest.raises(ValueError, match=message):
        metric.update(prediction, target or draw_truth([[1, 1]], {1: 0}))
    assert math.isnan(metric.compute()["pq"])


def test_an_id_for_two_segments_is_refused():
    doubled = draw_truth([[1, 1]], {1: 0})
    doubled["segments_info"] *= 2
    with pytest.raises(ValueError, match=r"repeats \[1\]"):
        panoptic_quality_of([(doubled, doubled)])


def test_things_are_labels_and_metrics_of_different_things_do_not_merge():
    with pytest.raises(ValueError, match=r"things \[7\] outside"):
        PanopticQuality(4, [0, 7])
    with pytest.raises(ValueError, match=r"differ: \[1\]"):
        PanopticQuality(4, [0]).merge(PanopticQuality(4, [0, 1]))


# COCO's own pictures, with people in crowds.


@pytest.fixture(scope="module")
def coco(shared):
    folder = shared / "data/coco_panoptic_sample"
    categories = json.loads((folder / "panoptic_coco_categories.json").read_text())
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    things = [label_of[category["id"]] for category in categories if category["isthing"]]
    truths = []
    for annotation in json.loads((folder / "panoptic_examples.json").read_text())["annotations"]:
        colours = Image.open(folder / "panoptic_examples" / annotation["file_name"]).convert("RGB")
        ids = np.asarray(colours).astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        infos = [
            {"id": s["id"], "label_id": label_of[s["category_id"]], "iscrowd": s["iscrowd"]}
            for s in annotation["segments_info"]
        ]
        truths.append({"segmentation": ids, "segments_info": infos})
    return truths, things


def damaged_truth(target, random):
    """The truth with segments moved, cut, joined, lost and mislabelled, and crowds as things."""
    id_map = np.asarray(target["segmentation"]).copy()
    labels = {info["id"]: info["label_id"] for info in target["segments_info"]}
    for segment_id in list(labels):
        here = np.asarray(target["segmentation"]) == segment_id
        what = random.choice(["kept", "moved", "cut", "joined", "lost", "mislabelled"])
        if what == "moved":
            shift = random.integers(-12, 13, 2)
            id_map[here] = 0
            id_map[np.roll(here, shift, (0, 1))] = segment_id
        elif what == "cut":
            rows = np.flatnonzero(here.any(1))
            middle = int(rows[int(random.uniform(0.2, 0.9) * len(rows))])
            lower = here.copy()
            lower[:middle] = False
            new = int(max(labels)) + 1
            id_map[lower] = new
            labels[new] = labels[segment_id]
        elif what == "joined":
            id_map[here] = random.choice(list(labels))
        elif what == "lost":
            id_map[here] = 0
        elif what == "mislabelled":
            labels[segment_id] = int(random.integers(0, 133))
    left = set(np.unique(id_map).tolist()) - {0}
    return draw_truth(id_map, {key: value for key, value in labels.items() if key in left})


def test_cocos_truth_against_itself_is_perfect(coco):
    truths, things = coco
    result = panoptic_quality_of([(truth, truth) for truth in truths], 133, things).compute()
    assert (result["pq"], result["pq_things"], result["pq_stuff"]) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_cocos_truth_counts_as_published(coco, seed):
    truths, things = coco
    random = np.random.default_rng(seed)
    images = [(damaged_truth(truth, random), truth) for truth in truths]
    result = panoptic_quality_of(images, 133, things).compute()
    assert 0.05 < result["pq"] < 0.95
    assert_as_published(result, images, num_labels=133)
