"""`jobs/evaluate.py` from its command line: numbers, pictures, and one line for what is wrong."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_files import encode_image
from drawn import SIZES, picture, tar, written
from job_runs import ROOT, Ended, Here, Jobs, words
from PIL import Image

from jobs import evaluate
from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    MeanIoU,
    SemanticTestTimeAugmentation,
)

EVALUATE = ROOT / "jobs" / "evaluate.py"
LABELS = ["car", "tree", "road", "sky"]


def evaluate_apart(jobs: Jobs, **options: Any) -> Ended:
    return jobs.start_command([sys.executable, str(EVALUATE), *words(options)]).end()


def label_map(seed: int) -> np.ndarray:
    """Three labels in blocks, and a line that is ignored; of the size of `picture(seed)`."""
    height, width = SIZES[seed % len(SIZES)]
    blocks = np.random.default_rng(seed).integers(0, 3, (height // 8, width // 8), np.uint8)
    labels = blocks.repeat(8, 0).repeat(8, 1)
    labels[0] = 255
    return labels


def map_shard(count: int, **others: bytes) -> dict[str, bytes]:
    """A shard of photographs and label maps, with the names of the labels."""
    members = {}
    for seed in range(count):
        members[f"{seed:03}.jpg"] = encode_image(picture(seed), "JPEG")
        members[f"{seed:03}.png"] = encode_image(Image.fromarray(label_map(seed)))
    shard = tar(members | {name.replace("_", "."): data for name, data in others.items()})
    return {"all.tar": shard, "labels.json": json.dumps({"labels": LABELS}).encode()}


def labelled_segments() -> dict[str, bytes]:
    """A map of segment ids, with labels that are neither things nor stuff."""
    said = {"segments_info": [{"id": 1, "label_id": 0}]}
    members = {
        "a.jpg": encode_image(picture(0), "JPEG"),
        "a.png": encode_image(Image.new("L", (64, 48), 1)),
        "a.json": json.dumps(said).encode(),
    }
    return {"all.tar": tar(members), "labels.json": json.dumps(LABELS).encode()}


@pytest.mark.faults
def test_a_model_is_judged_by_several_looks_at_each_image(
    jobs: Jobs, tiny_model: Path, tmp_path: Path
) -> None:
    data, output = written(tmp_path / "data", map_shard(5)), tmp_path / "output"
    options = {"model": tiny_model, "dataset": data, "task": "semantic", "output": output}
    options |= {"resize_rule": "detectron2", "augment": True, "augmented_short_edges": "48,64"}
    ended = evaluate_apart(jobs, **options, num_actors=1).expect(0)
    report = json.loads((output / "metrics.json").read_text())
    assert (report["task"], report["num_images"]) == ("semantic", 5)
    assert 0 < report["metrics"]["miou"] < 1
    assert [row["label"] for row in report["labels"]] == LABELS
    assert report["labels"][3]["iou"] is None  # no truth has sky
    assert f"{100 * report['metrics']['miou']:.2f}" in ended.stdout
    assert str(output / "metrics.json") in ended.stdout
    for name in ("confusion.png", "worst.png"):
        assert Image.open(output / name).width > 200
    assert f"model: {tiny_model}" in (output / "settings.yaml").read_text()
    by_hand = [_augmented_score(tiny_model, flip=flip) for flip in (True, False)]
    assert report["metrics"]["miou"] == pytest.approx(by_hand[0], abs=1e-4)
    assert report["metrics"]["miou"] != pytest.approx(by_hand[1], abs=1e-3)


def _augmented_score(model: Path, *, flip: bool) -> float:
    """The mean IoU of the five images, by `maskformer` alone."""
    augmented = SemanticTestTimeAugmentation(
        MaskFormerForInstanceSegmentation.from_pretrained(model).eval(),
        MaskFormerImageProcessor.from_pretrained(model, resize_rule="detectron2"),
        short_edges=(48, 64),
        flip=flip,
    )
    names = MaskFormerForInstanceSegmentation.from_pretrained(model).config.id2label
    data_label_of = np.array([LABELS.index(name) for _, name in sorted(names.items())])
    metric = MeanIoU(len(LABELS), ignore_index=255)
    for seed in range(5):
        photo = Image.open(io.BytesIO(encode_image(picture(seed), "JPEG")))
        metric.update(data_label_of[augmented(photo).numpy()], label_map(seed))
    return float(metric.compute()["miou"])


@pytest.mark.parametrize(
    ("files", "options", "pieces"),
    [
        (map_shard(2, b_jpg=b"x"), {}, ["image all.tar/b has no label map"]),
        (
            map_shard(2) | {"labels.json": b'["car", "tree", "road", "sea"]'},
            {},
            ["only the model has 'sky'", "only the data has 'sea'"],
        ),
        (map_shard(2), {"task": "panoptic"}, ["the label of each pixel", "--task semantic"]),
        (labelled_segments(), {"task": "panoptic"}, ["say which labels are things"]),
        (map_shard(2), {"threshold": 0.3}, ["threshold has no effect"]),
        (map_shard(2), {"maps": "elsewhere"}, ["maps has no effect on tar shards"]),
        (map_shard(2), {"window_overlap": 8}, ["window_overlap has no effect without --window"]),
        (map_shard(2), {"window": "32,32", "decode": "fast"}, ["decode has no effect with --"]),
        (map_shard(2), {"augment": True, "batch_pixels": 9}, ["batch_pixels has no effect with"]),
        ({}, {}, ["there is nothing at"]),
    ],
)
def test_what_is_wrong_beforehand_is_one_line(
    here: Here,
    tiny_model: Path,
    tmp_path: Path,
    files: dict[str, bytes],
    options: dict[str, Any],
    pieces: list[str],
) -> None:
    data = written(tmp_path / "data", files)
    usual = {"model": tiny_model, "dataset": data, "task": "semantic", "output": tmp_path / "out"}
    line = here(evaluate.main, **usual | options).one_line
    for piece in ("evaluate: ", *pieces):
        assert piece in line
    assert not (tmp_path / "out").exists()


# test_evaluation_driver.py tests without a job that it ends the run.
@pytest.mark.faults
def test_data_that_turns_out_wrong_leaves_no_number(
    jobs: Jobs, tiny_model: Path, tmp_path: Path
) -> None:
    small_map = encode_image(Image.new("L", (64, 48), 9))
    wrong = {"b_jpg": encode_image(picture(0), "JPEG"), "b_png": small_map}
    data = written(tmp_path / "data", map_shard(2, **wrong))
    usual = {"model": tiny_model, "dataset": data, "task": "semantic", "output": tmp_path / "out"}
    ended = evaluate_apart(jobs, **usual, num_actors=1).expect(2)
    assert "image all.tar/b, labels in" in ended.stderr.splitlines()[-1]
    assert "the map holds 9" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_task_is_refused(here: Here, tmp_path: Path) -> None:
    data = written(tmp_path / "data", map_shard(1))
    table = written(tmp_path / "table", {"_table.json": b'{"task": "panoptic", "labels": []}'})
    usual = {"table": table, "dataset": data, "output": tmp_path / "out"}
    assert "holds panoptic segments" in here(evaluate.main, task="semantic", **usual).one_line
    for name, value in (("num_actors", 2), ("window", "9,9")):
        line = here(evaluate.main, task="panoptic", **{name: value}, **usual).one_line
        assert f"{name} has no effect with --table" in line


@pytest.mark.faults  # a minute; test_evaluation_driver.py and the metrics' own tests are quick
def test_street_scenes_score_as_through_transformers(
    jobs: Jobs, shared: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    count = 2
    model = shared / "weights" / "maskformer-efficientnet-lite0-camvid"
    data = shared / "data" / "camvid" / "val-0000.tar"
    output = tmp_path / "output"
    evaluate_apart(
        jobs, model=model, dataset=data, task="semantic", output=output, limit=count
    ).expect(0)
    report = json.loads((output / "metrics.json").read_text())
    expected = _through_transformers(transformers, model=model, data=data, count=count)
    found = [row["iou"] for row in report["labels"]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert report["metrics"]["miou"] == pytest.approx(np.mean(expected), abs=1e-4)


def _through_transformers(transformers: Any, *, model: Path, data: Path, count: int) -> np.ndarray:
    """The IoU of each label, with the model, the processor and the post-processing of others."""
    import tarfile

    import torch

    with tarfile.open(data) as archive:
        names = [name for name in archive.getnames() if name.endswith(".jpg")][:count]
        opened = {
            name: Image.open(io.BytesIO(archive.extractfile(name).read()))  # type: ignore[union-attr]
            for jpg in names
            for name in (jpg, jpg.replace(".jpg", ".png"))
        }
    network = transformers.MaskFormerForInstanceSegmentation.from_pretrained(model).eval()
    processor = transformers.MaskFormerImageProcessor.from_pretrained(model)
    confusion = np.zeros((12, 12), np.int64)
    for name in names:
        photo, truth = opened[name], np.asarray(opened[name.replace(".jpg", ".png")])
        inputs = processor(images=photo, return_tensors="pt")
        with torch.inference_mode():
            outputs = network(pixel_values=inputs["pixel_values"])
        [labels] = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[photo.size[::-1]]
        )
        codes = truth.astype(np.int64) * 12 + labels.numpy()
        confusion += np.bincount(codes.ravel(), minlength=144).reshape(12, 12)
    confusion = confusion[:11, :11]
    hits = np.diagonal(confusion)
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)
