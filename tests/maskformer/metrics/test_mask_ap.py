import contextlib
import io
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskformer.metrics import MaskAP

NUM_LABELS = 3
SIZE = (130, 170)
NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def draw_ellipse(random, centre=None, radii=None):
    """An ellipse from a few pixels to most of the picture."""
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    y, x = random.uniform((0, 0), SIZE) if centre is None else centre
    tall, wide = (
        random.choice([8, 20, 70]) * random.uniform(0.5, 1.5, 2) if radii is None else radii
    )
    return ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 <= 1, (y, x), (tall, wide)


def draw_scored_image(random, *, has_ties, max_instances=7):
    """Truths, some of them crowds, and predictions: shifted truths, doubles and strangers."""
    true, predicted = [], []
    for _ in range(random.integers(0, max_instances)):
        mask, centre, radii = draw_ellipse(random)
        label = int(random.integers(0, NUM_LABELS))
        true.append((mask, {"label_id": label, "iscrowd": int(random.random() < 0.15)}))
        if random.random() < 0.2:
            true[-1][1]["area"] = float(mask.sum() * random.uniform(0.7, 1.3))
        for _ in range(random.integers(0, 3)):
            spread = random.choice([0.02, 0.1, 0.3]) * np.array(radii)
            near, *_ = draw_ellipse(random, np.array(centre) + random.normal(0, spread), radii)
            guess = label if random.random() < 0.9 else int(random.integers(0, NUM_LABELS))
            predicted.append((near, guess))
    for _ in range(random.integers(0, 3)):
        predicted.append((draw_ellipse(random)[0], int(random.integers(0, NUM_LABELS))))
    scores = random.choice([0.2, 0.5, 0.9], len(predicted)) if has_ties else random.random(99)
    return (
        pictured(
            [mask for mask, _ in predicted],
            [
                {"label_id": label, "score": float(score)}
                for (_, label), score in zip(predicted, scores, strict=False)
            ],
        ),
        pictured([mask for mask, _ in true], [info for _, info in true]),
    )


def pictured(masks, infos):
    stack = np.array(masks, np.uint8).reshape(-1, *SIZE)
    rows = [{"id": place, **info} for place, info in enumerate(infos, start=1)]
    return {"segmentation": stack, "segments_info": rows}


def cocos_own(images):
    """Returns what COCOeval prints, by our names, and the AP of each label."""
    truth, results = COCO(), []
    annotations = []
    for image_id, (prediction, target) in enumerate(images, start=1):
        for mask, info in zip(target["segmentation"], target["segments_info"], strict=True):
            rle = coco.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": info["label_id"] + 1,
                    "segmentation": rle,
                    "area": info.get("area", float(coco.area(rle))),
                    "iscrowd": info["iscrowd"],
                }
            )
        for mask, info in zip(prediction["segmentation"], prediction["segments_info"], strict=True):
            rle = coco.encode(np.asfortranarray(mask))
            results.append(
                {
                    "image_id": image_id,
                    "category_id": info["label_id"] + 1,
                    "segmentation": rle,
                    "score": info["score"],
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "info": {},
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, 99)],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(NUM_LABELS)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.imgIds = list(range(1, len(images) + 1))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_label = [
        values[values > -1].mean() if (values > -1).any() else np.nan
        for values in np.moveaxis(precision, 2, 0)
    ]
    stats = [np.nan if value == -1 else value for value in evaluation.stats]
    return dict(zip(NAMES, stats, strict=True)) | {"ap_per_label": per_label}


def mask_ap_of(images):
    metric = MaskAP(NUM_LABELS)
    for prediction, target in images:
        metric.update(prediction, target)
    return metric


@pytest.mark.parametrize("has_ties", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_cocos_own_evaluation(seed, has_ties):
    random = np.random.default_rng(seed)
    images = [draw_scored_image(random, has_ties=has_ties) for _ in range(random.integers(2, 9))]
    result = mask_ap_of(images).compute()
    assert result.keys() == {*NAMES, "ap_per_label"}
    for name, expected in cocos_own(images).items():
        assert result[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name


def test_only_the_best_hundred_of_a_label_count_as_in_cocos():
    random = np.random.default_rng(0)
    images = [draw_scored_image(random, has_ties=False, max_instances=40) for _ in range(2)]
    prediction, target = images[0]
    many = {
        "segmentation": np.tile(prediction["segmentation"], (25, 1, 1)),
        "segments_info": [
            {**info, "score": float(random.random())} for info in prediction["segments_info"] * 25
        ],
    }
    assert sum(info["label_id"] == 0 for info in many["segments_info"]) > 100
    images[0] = many, target
    result = mask_ap_of(images).compute()
    for name, expected in cocos_own(images).items():
        assert result[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name


def test_an_image_may_have_hundreds_of_instances_on_both_sides():
    masks = np.zeros((400, *SIZE), np.uint8)
    masks[np.arange(400), np.arange(400) // 100, np.arange(400) % 100] = 1
    found = pictured(masks, [{"label_id": 0, "score": 0.5, "iscrowd": 0}] * 400)
    metric = MaskAP(1)
    metric.update(found, found)
    # All that are looked at are right.
    assert metric.compute()["ar100"] == 0.25


@pytest.mark.parametrize("seed", range(4))
def test_mask_ap_of_shards_in_any_order_is_that_of_the_whole(seed):
    random = np.random.default_rng(seed)
    images = [draw_scored_image(random, has_ties=False) for _ in range(9)]
    shards = [mask_ap_of(images[start::3]) for start in range(3)]
    merged = MaskAP(NUM_LABELS)
    for place in random.permutation(3):
        merged.merge(pickle.loads(pickle.dumps(shards[place])))
    np.testing.assert_equal(merged.compute(), mask_ap_of(images).compute())


@pytest.mark.parametrize("seed", range(4))
def test_with_image_ids_the_order_does_not_matter_where_scores_tie_either(seed):
    random = np.random.default_rng(seed)
    images = [draw_scored_image(random, has_ties=True) for _ in range(9)]
    merged = MaskAP(NUM_LABELS)
    for place in random.permutation(9).tolist():
        one = MaskAP(NUM_LABELS)
        one.update(*images[place], image_id=place)
        merged.merge(one)
    np.testing.assert_equal(merged.compute(), mask_ap_of(images).compute())


def test_it_goes_on_counting_after_it_was_asked():
    random = np.random.default_rng(3)
    images = [draw_scored_image(random, has_ties=False) for _ in range(4)]
    metric = mask_ap_of(images[:2])
    metric.compute()
    for image in images[2:]:
        metric.update(*image)
    np.testing.assert_equal(metric.compute(), mask_ap_of(images).compute())


def test_a_map_a_stack_and_a_list_of_rle_are_the_same_instances():
    id_map = np.zeros(SIZE, np.int32)
    id_map[10:60, 10:60], id_map[70:90, 100:160] = 7, 2
    infos = [{"id": 7, "label_id": 1, "score": 0.9}, {"id": 2, "label_id": 0, "score": 0.4}]
    masks = np.stack([id_map == 7, id_map == 2])
    moved = np.roll(masks, 3, 2)
    target = {"segmentation": moved.astype(np.uint8), "segments_info": infos}
    rles = [
        {**rle, "counts": rle["counts"].decode()}
        for rle in coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    ]
    forms = (id_map, torch.from_numpy(id_map), masks, torch.from_numpy(masks), rles)
    results = []
    for form in forms:
        metric = MaskAP(2)
        metric.update({"segmentation": form, "segments_info": infos}, target)
        results.append(metric.compute())
    assert 0.5 < results[0]["ap"] < 1
    for result in results[1:]:
        np.testing.assert_equal(result, results[0])


def test_images_without_instances_on_either_side_count():
    nothing = {"segmentation": [], "segments_info": []}
    found = pictured([np.ones(SIZE)], [{"label_id": 0, "score": 0.9}])
    metric = MaskAP(1)
    metric.update(nothing, nothing)
    assert np.isnan(metric.compute()["ap"])
    metric.update(nothing, found)
    assert metric.compute()["ap"] == 0
    metric.update(found, found)
    assert metric.compute()["ar100"] == 0.5


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"segmentation": np.ones((1, 3, 3)), "segments_info": []}, "1 masks and 0 rows"),
        (
            {"segmentation": np.ones((1, 3, 3)), "segments_info": [{"id": 1, "label_id": 0}]},
            r"has a score.*\[1\]",
        ),
        (
            {
                "segmentation": np.ones((1, 3, 3)),
                "segments_info": [{"id": 1, "label_id": 0, "score": 1.0}],
            },
            r"\(3, 3\) and \(130, 170\)",
        ),
        (
            {
                "segmentation": [{"size": [1, 2], "counts": "2"}, {"size": [2, 1], "counts": "2"}],
                "segments_info": [],
            },
            r"all masks of a picture have its size.*\(1, 2\), \(2, 1\)",
        ),
        (
            {
                "segmentation": np.ones((1, *SIZE)),
                "segments_info": [{"id": 1, "label_id": 9, "score": 1.0}],
            },
            "labels are 0 to 2",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused_and_count_nothing(prediction, message):
    metric = MaskAP(NUM_LABELS)
    with pytest.raises(ValueError, match=message):
        metric.update(prediction, pictured([np.ones(SIZE)], [{"label_id": 0}]))
    assert not metric.num_true.any()
