"""AP as it is published, of whole masks that overlap, beside that of a table's rows."""

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from corpora import put
from drawn_labels import coco_objects, overlapping_objects, scenes
from predicted import model_folder_of
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_model import small_model

from maskformer import encode_mask
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.evaluation.instance_ap import InstanceAP
from pipeline.evaluation.judging import Judge
from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.evaluation.report import metrics_summary, report_metrics
from pipeline.evaluation.scoring import Scorer
from pipeline.labelling.model import read_model
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings

# The model's labels by the data's, which are tree and car.
JUDGED = (0, 1, 0, 1)


def open_instances(files: dict[str, bytes], folder: Path, name: str) -> LabelledImages:
    return open_labelled(DatasetSettings(dataset=f"{put(folder, files)}/{name}"))


def judge_of(dataset: LabelledImages) -> Judge:
    return Judge(task="instance", labels=dataset.labels, data_label_of=JUDGED)


def detectrons_instances(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Written down from the equations: top 100 over query and label, masks of resized logits."""
    num_labels = class_logits.shape[1] - 1
    scores, pairs = class_logits.softmax(-1)[:, :-1].flatten().sort(descending=True, stable=True)
    masks = torch.nn.functional.interpolate(
        mask_logits[None], size=size, mode="bilinear", align_corners=False
    )[0]
    found = []
    for score, pair in zip(scores[:100].tolist(), pairs[:100].tolist(), strict=True):
        mask = masks[pair // num_labels]
        inside = (mask > 0).float()
        mask_score = float((mask.sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        rle = coco.encode(np.asfortranarray(inside.numpy().astype(np.uint8)))
        found.append({"label": JUDGED[pair % num_labels], "score": score * mask_score, "rle": rle})
    return found


def cocos_ap(truth: dict[str, Any], found: list[list[dict[str, Any]]]) -> list[float]:
    """The twelve numbers of COCOeval for the file as it was written."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth
        data.createIndex()
        image_ids = [image["id"] for image in truth["images"]]
        category_ids = [category["id"] for category in truth["categories"]]
        results = [
            {
                "image_id": image_id,
                "category_id": category_ids[each["label"]],
                "segmentation": each["rle"],
                "score": each["score"],
            }
            for image_id, those in zip(image_ids, found, strict=True)
            for each in those
        ]
        evaluation = COCOeval(data, data.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def objects_near(found: list[dict[str, Any]]) -> list[tuple[np.ndarray, str, bool]]:
    """Truths that a model has found in part: every fifth mask of some size, moved by a pixel."""
    masks = [(coco.decode(each["rle"]).astype(bool), each["label"]) for each in found]
    large = [(mask, label) for mask, label in masks if mask.sum() > 20][::5]
    return [
        (np.roll(mask, number % 2, 1), ("tree", "car")[label], False)
        for number, (mask, label) in enumerate(large)
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.02])
def test_a_models_ap_is_that_of_detectrons_instances_by_cocoeval(
    threshold: float, tmp_path: Path
) -> None:
    photo = scenes(1)[0].photo
    model = read_model(str(model_folder_of(tmp_path / "model")), resize_rule="transformers")
    network = small_model().eval()
    bare = open_instances(
        coco_objects(overlapping_objects(), photo), tmp_path / "bare", "instances.json"
    )
    loader = ImageLoader(dataset=bare, processor=model.processor, block_bytes=10**9)
    [block] = loader(pa.table({"index": [0]}, schema=INDICES))
    [row] = block.to_pylist()
    pixels = np.frombuffer(row["pixels"], np.uint8)
    pixels = pixels.reshape(1, row["pixels_height"], row["pixels_width"], 3).copy()
    with torch.no_grad():
        output = network(model.processor.normalize(torch.from_numpy(pixels)))
    found = detectrons_instances(
        output.class_queries_logits[0], output.masks_queries_logits[0], (36, 48)
    )
    files = coco_objects(objects_near(found), photo)
    dataset = open_instances(files, tmp_path / "data", "instances.json")
    assert dataset.target(0).is_overlapping

    settings = SegmentSettings(task="instance", threshold=threshold)
    segmenter = Segmenter(model.files, settings=settings, num_threads=1, num_whole_instances=100)
    rows = segmenter(block)
    plain = Segmenter(model.files, settings=settings, num_threads=1)(block)
    assert rows.drop_columns(["whole_instances"]).equals(plain)  # the table's rows are the job's
    receipt = Scorer(dataset=dataset, judge=judge_of(dataset), num_worst=1)(rows)
    metric = pickle.loads(receipt["sums"][0].as_py())
    expected = cocos_ap(json.loads(files["instances.json"]), [found])
    computed = metric.compute()
    assert computed["published_ap"] == pytest.approx(expected[0], abs=1e-6)
    assert computed["published_ap50"] == pytest.approx(expected[1], abs=1e-6)
    assert computed["published_ar100"] == pytest.approx(expected[8], abs=1e-6)
    assert computed["published_ap"] > computed["ap"]


def drawn_predictions(random: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Whole masks near those of the truth, which overlap as it does."""
    predictions = []
    for _ in range(count):
        objects = overlapping_objects()
        mask, label, _ = objects[int(random.integers(len(objects)))]
        moved = np.roll(mask, random.integers(-2, 3, 2).tolist(), (0, 1))
        predictions.append(
            {
                "label_id": ("tree", "car").index(label),
                "score": float(random.random()),
                "rle": encode_mask(moved),
            }
        )
    return predictions


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_truths_are_judged_by_their_whole_masks(seed: int, tmp_path: Path) -> None:
    files = coco_objects(overlapping_objects())
    dataset = open_instances(files, tmp_path, "instances.json")
    whole = drawn_predictions(np.random.default_rng(seed), 12)
    metric = judge_of(dataset).judged([], dataset.target(0), index=0, whole=whole)
    found = [
        {
            "label": each["label_id"],
            "score": each["score"],
            "rle": {"size": [36, 48], "counts": each["rle"].encode()},
        }
        for each in whole
    ]
    expected = cocos_ap(json.loads(files["instances.json"]), [found])
    computed = metric.compute()
    for name, value in zip(
        ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100"),
        expected,
        strict=False,
    ):
        if value == -1:
            assert np.isnan(computed[f"published_{name}"])
        else:
            assert computed[f"published_{name}"] == pytest.approx(value, abs=1e-6)


def test_the_truth_itself_has_an_ap_of_one_by_whole_masks_alone(tmp_path: Path) -> None:
    """Rows of a table share no pixel, so that they cannot show two objects alike."""
    dataset = open_instances(coco_objects(overlapping_objects()), tmp_path, "instances.json")
    target = dataset.target(0)
    whole = [
        {"label_id": each.label_id, "score": 0.9, "rle": each.rle}
        for each in target.segments
        if not each.is_crowd
    ]
    metric = judge_of(dataset).judged([], target, index=0, whole=whole)
    assert metric.compute()["published_ap"] == pytest.approx(1.0)
    assert metric.compute()["ap"] == 0.0


def test_where_only_rows_are_known_nothing_is_published(tmp_path: Path) -> None:
    dataset = open_instances(coco_objects(overlapping_objects()), tmp_path, "instances.json")
    judge, target = judge_of(dataset), dataset.target(0)
    with_whole = judge.judged([], target, index=0, whole=[])
    without = judge.judged([], target, index=1)
    assert isinstance(without, InstanceAP)
    assert "published_ap" in with_whole.compute()
    assert not any(name.startswith("published") for name in without.compute())
    assert "published_ap" not in with_whole.merge(without).compute()


def test_people_see_both_ways_side_by_side(tmp_path: Path) -> None:
    dataset = open_instances(coco_objects(overlapping_objects()), tmp_path, "instances.json")
    judge = judge_of(dataset)
    whole = drawn_predictions(np.random.default_rng(1), 12)
    report = report_metrics(
        judge.judged([], dataset.target(0), index=0, whole=whole),
        judge=judge,
        predictions="model",
        dataset=dataset.uri,
        num_images=1,
        num_segments=0,
        seconds=1.0,
    )
    lines = metrics_summary(report, files=[]).splitlines()
    [line] = [line for line in lines if line.startswith("│        ap │") or " ap │" in line]
    assert "0.00" in line
    assert f"{100 * report.metrics['published_ap']:.2f}" in line
    assert any({"rows", "published"} <= {*line.split()} for line in lines)
    assert max(map(len, lines)) <= 100
