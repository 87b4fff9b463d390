"""An actor's segmenter on a GPU: the rows that the CPU gives, and what it does without memory."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from small_model import small_model
from waits import no_hidden_waits

from maskformer import MaskFormerImageProcessor, decode_rle
from pipeline.corpora.reading import EncodedImage, ReadSettings
from pipeline.labelling.reading.unit_loader import BLOCK, image_row
from pipeline.labelling.segmenting.model_loading import ModelInMemory
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings

PROCESSOR = MaskFormerImageProcessor(size={"shortest_edge": 256, "longest_edge": 640})
SIZES = [(180, 240), (250, 200), (180, 240), (320, 320), (205, 295), (200, 295)]
TASKS = {
    "panoptic": {"threshold": 0.3, "overlap_mask_area_threshold": 0.1},
    "instance": {"threshold": 0.3, "overlap_mask_area_threshold": 0.1},
    "semantic": {},
}


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def block(rule: Any) -> pa.Table:
    processor = MaskFormerImageProcessor(size=PROCESSOR.size, resize_rule=rule)
    random = np.random.default_rng(3)
    rows = []
    for number, (height, width) in enumerate(SIZES):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(coarse).resize((width, height)).save(data, "PNG")
        name = f"{number}.png"
        image = EncodedImage(
            image_id=name, uri=name, member=None, etag="e", data=data.getvalue(), error=None
        )
        row = image_row(image, reading=ReadSettings(), processor=processor)
        rows.append({"unit_id": "u", "kind": "image", "position": number, **row})
    return pa.Table.from_pylist(rows, schema=BLOCK)


def id_map(row: dict[str, Any]) -> np.ndarray:
    ids = np.zeros((row["height"], row["width"]), np.int64)
    for segment in row["segments"]:
        mask = decode_rle(segment["rle"], height=row["height"], width=row["width"])
        ids[mask.astype(bool)] = segment["segment_id"]
    return ids


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("task", TASKS)
def test_rows_are_those_of_the_cpu(model_files, monkeypatch, task, rule):
    settings = SegmentSettings(task=task, resize_rule=rule, **TASKS[task])
    gpu = Segmenter(model_files, settings=settings)
    assert gpu._batch_segmenter.model.device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = Segmenter(model_files, settings=settings)
    found, expected = gpu(block(rule)).to_pylist(), cpu(block(rule)).to_pylist()
    assert sum(row["num_segments"] for row in expected) >= len(SIZES)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["image_id"], ours["status"]) == (theirs["image_id"], "ok")
        assert np.mean(id_map(ours) != id_map(theirs)) < 0.003
        for a, b in zip(ours["segments"], theirs["segments"], strict=True):
            assert (a["segment_id"], a["label"]) == (b["segment_id"], b["label"])
            assert a["score"] == pytest.approx(b["score"], abs=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("task", TASKS)
def test_on_the_second_card_rows_are_those_of_the_first(model_files, task):
    """Workers that train on one node see all of its cards, and threads begin at the first."""
    settings = SegmentSettings(task=task, **TASKS[task])
    found = []
    for card in ("cuda:0", "cuda:1"):
        source = ModelInMemory(model=small_model().to(card), processor=PROCESSOR)
        segmenter = Segmenter(source, settings=settings)
        found += [segmenter(block("transformers")).to_pylist() for _ in range(5)]
    for rows in found[1:]:
        for ours, theirs in zip(rows, found[0], strict=True):
            assert ours["num_segments"] == theirs["num_segments"]
            assert np.mean(id_map(ours) != id_map(theirs)) < 0.003


@pytest.mark.parametrize("policy", ["record", "shrink", "tile"])
def test_too_little_memory_ends_no_run(model_files, policy):
    """Memory is really too little, for a batch, then for an image; and afterwards it is enough."""
    settings = SegmentSettings(out_of_memory=policy, **TASKS["panoptic"])
    segmenter = Segmenter(model_files, settings=settings)
    rows = block("transformers")
    expected = segmenter(rows).to_pylist()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    one = segmenter(rows.slice(3, 1))
    of_one = torch.cuda.max_memory_allocated() - before
    classes = set()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        for share in (1.5, 0.6):
            torch.cuda.empty_cache()
            bound = torch.cuda.memory_reserved() + max(share * of_one, 2 << 20)
            torch.cuda.set_per_process_memory_fraction(min(1.0, bound / total))
            found = segmenter(rows).to_pylist()
            assert [row["image_id"] for row in found] == [row["image_id"] for row in expected]
            classes |= {row["error_class"] for row in found}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert classes <= {None, "SegmenterOutOfMemory"}
    assert segmenter(rows.slice(3, 1)).equals(one)


def test_an_actor_with_a_part_of_a_gpu_keeps_to_its_share(model_files, monkeypatch):
    settings = SegmentSettings(**TASKS["panoptic"])
    whole = Segmenter(model_files, settings=settings)
    part = Segmenter(model_files, settings=settings, gpu_share=1e-6)
    batches = []
    start = part._batch_segmenter.start

    def started(batch: Any) -> Any:
        batches.append(len(batch))
        return start(batch)

    monkeypatch.setattr(part._batch_segmenter, "start", started)
    found, expected = part(block("transformers")), whole(block("transformers"))
    assert batches == [1] * len(SIZES)
    assert found["num_segments"] == expected["num_segments"]


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_by_batch_rows_are_those_by_image(model_files, task, rule):
    settings = SegmentSettings(task=task, resize_rule=rule, **TASKS[task])
    by_batch = Segmenter(model_files, settings=settings)
    by_image = Segmenter(model_files, settings=settings, way="by_image")
    found, expected = by_batch(block(rule)).to_pylist(), by_image(block(rule)).to_pylist()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["num_segments"] == theirs["num_segments"]
        assert np.mean(id_map(ours) != id_map(theirs)) < 0.003


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_block_waits_for_its_transfers_alone(model_files, task):
    """Counts the waits from pixels to rows: one event for each batch."""
    segmenter = Segmenter(model_files, settings=SegmentSettings(task=task, **TASKS[task]))
    rows = block("transformers")
    expected = segmenter(rows)
    segmenter(rows)
    with no_hidden_waits():
        found = segmenter(rows)
    assert found["num_segments"] == expected["num_segments"]


def test_two_blocks_at_once_give_what_each_gives_alone(model_files):
    segmenter = Segmenter(model_files, settings=SegmentSettings(**TASKS["panoptic"]))
    rows = block("transformers")
    expected = segmenter(rows).to_pylist()
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(segmenter, [rows] * 8):
            for ours, theirs in zip(found.to_pylist(), expected, strict=True):
                assert ours["num_segments"] == theirs["num_segments"]
                assert np.mean(id_map(ours) != id_map(theirs)) < 0.003
