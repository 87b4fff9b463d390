"""Rows of segments describe the image alone, however it was batched, and pass on what failed."""

import contextlib
import dataclasses
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from segmented_pictures import (
    INSTANCE,
    PANOPTIC,
    RULES,
    SEMANTIC,
    SIZES,
    TASKS,
    assert_alike,
    id_map,
    masks,
    processor_with,
    scores_apart,
)
from small_model import LABELS

from maskformer import MaskFormerForInstanceSegmentation
from pipeline.labelling.reading.unit_loader import BLOCK
from pipeline.labelling.rows import ROWS
from pipeline.labelling.segmenting.segmenter import Segmenter, _pixels_at_once
from pipeline.labelling.settings import SegmentSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@TASKS
def test_segments_are_described_by_what_their_masks_show(make, block, settings):
    rows = make(settings)(block)
    assert rows.schema.equals(ROWS)
    images = [row for row in rows.to_pylist() if row["status"] == "ok"]
    assert sum(row["num_segments"] for row in images) > len(images)
    for row in images:
        assert [s["segment_id"] for s in row["segments"]] == list(range(1, row["num_segments"] + 1))
        together = np.zeros((row["height"], row["width"]), int)
        for segment, mask in zip(row["segments"], masks(row).values(), strict=True):
            together += mask
            ys, xs = np.nonzero(mask)
            box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
            assert tuple(segment[f"bbox_{side}"] for side in "xywh") == box
            assert segment["area"] == mask.sum() > 0
            assert segment["label"] == LABELS[segment["label_id"]]
            assert 0 <= segment["score"] <= 1
        assert together.max() <= 1  # a pixel is in one segment
        assert row["coverage"] == pytest.approx(together.mean())
        scores = [segment["score"] for segment in row["segments"]]
        assert row["mean_score"] == (pytest.approx(np.mean(scores)) if scores else None)


@TASKS
def test_rows_of_an_image_alone_are_those_it_has_in_a_batch(make, block, settings):
    alone = make(settings)(block)
    assert_alike(make(settings, batch_pixels=10**7)(block), alone)
    assert_alike(make(settings, batch_pixels=2 * 64 * 96)(block), alone)


@pytest.mark.parametrize(
    "settings",
    [
        PANOPTIC,
        dataclasses.replace(PANOPTIC, label_ids_to_fuse=tuple(range(len(LABELS)))),
        SEMANTIC,
        INSTANCE,
    ],
    ids=["panoptic", "fused", "semantic", "instance"],
)
@RULES
def test_by_batch_rows_are_those_by_image_to_the_byte(model_files, make, blocks, settings, rule):
    """The way of GPUs, on a CPU; its masks are those of all queries."""
    block = blocks(processor_with(rule))
    settings = dataclasses.replace(settings, resize_rule=rule, batch_pixels=10**7)
    by_batch = Segmenter(model_files, settings=settings, num_threads=1, way="by_batch")
    model = by_batch._batch_segmenter.model
    every = Mock(side_effect=model.all_masks)
    model.all_masks = every
    found = by_batch(block)
    assert every.called
    expected = make(settings)(block)
    if settings.task == "instance":
        # Scores are means over logits, whose last bits depend on how many masks are made at once.
        ours, theirs = scores_apart(found), scores_apart(expected)
        assert ours[0] == theirs[0]
        assert ours[1] == pytest.approx(theirs[1], abs=1e-6)
    else:
        assert found.equals(expected)
    with ThreadPoolExecutor(2) as pool:
        assert all(each.equals(found) for each in pool.map(by_batch, [block] * 3))


def test_beside_a_gpu_post_processing_has_a_stream_that_waits_for_the_model(
    model_files, make, block, monkeypatch
):
    """Streams are stand-ins: what is asked of them, in order."""
    settings = dataclasses.replace(PANOPTIC, batch_pixels=10**7)
    by_batch = Segmenter(model_files, settings=settings, num_threads=1, way="by_batch")
    model = by_batch._batch_segmenter.model
    asked: list[str] = []
    by_batch._batch_segmenter._stream = Mock(
        wait_stream=lambda stream: asked.append(f"waits for {stream}")
    )
    # Without its device it would be that of the thread's card, which may be another.
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")

    def entering(stream: Any) -> Any:
        if stream is not None:
            asked.append("entered")
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "stream", entering)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: asked.append("kept"), raising=False
    )
    assert by_batch(block).equals(make(settings)(block))
    num_batches = asked.count("entered")
    assert num_batches > 1
    assert asked == [f"waits for that of {model.device}", "entered", "kept", "kept"] * num_batches


def test_threads_work_on_the_card_of_the_model(model_files, monkeypatch):
    segmenter = Segmenter(model_files, settings=PANOPTIC, num_threads=1, way="by_batch")
    told = {}
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: told.update({threading.get_ident(): device})
    )
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    second = torch.device("cuda:1")
    segmenter._prepare_threads(second)
    threads = [
        pool.submit(threading.get_ident).result()
        for pool in (segmenter._launcher, segmenter._post_processor)
    ]
    assert told == dict.fromkeys(threads, second)


def test_batches_on_a_gpu_are_bounded_by_images_and_by_memory(model_files, monkeypatch):
    """Bounds batches on a card of 80 GB and on a part of it; batch_pixels is taken as it is."""
    memory = Mock(return_value=Mock(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", memory)
    gpu = torch.device("cuda")
    pixels = _pixels_at_once(gpu, share=0.01, precision="fp32")
    assert _pixels_at_once(gpu, share=0.01, precision="bf16") == 2 * pixels
    segmenter = Segmenter(model_files, settings=PANOPTIC, num_threads=1)
    segmenter._batch_pixels = pixels
    group: list[Any] = [Mock(size=(480, 640))] * 200
    assert segmenter._images_at_once(group, padded_size=(512, 704)) == 2
    segmenter._batch_pixels = _pixels_at_once(gpu, share=1.0, precision="fp32")
    assert segmenter._images_at_once(group, padded_size=(512, 704)) == 100
    assert segmenter._images_at_once(group, padded_size=(20_000, 20_000)) == 1
    by_hand = dataclasses.replace(PANOPTIC, batch_pixels=100 * 64 * 64)
    by_hand_segmenter = Segmenter(model_files, settings=by_hand)
    assert by_hand_segmenter._images_at_once(group, padded_size=(64, 64)) == 100


@TASKS
def test_a_block_split_anywhere_gives_what_it_gives_whole(make, block, settings):
    segmenter = make(settings)
    whole = segmenter(block)
    for start in (1, 4):
        pieces = [segmenter(block.slice(0, start)), segmenter(block.slice(start))]
        assert pa.concat_tables(pieces).equals(whole)


@TASKS
@RULES
def test_padding_shows_in_no_segment(make, blocks, settings, rule):
    """Under the rule of detectron2, images of several sizes are padded to one and share a batch."""
    processor = processor_with(rule)
    block = blocks(processor)
    sizes = {
        processor.padded_size((row["pixels_height"], row["pixels_width"]))
        for row in block.to_pylist()
        if row["pixels"]
    }
    assert len(sizes) < len(set(SIZES))
    alone = make(settings, resize_rule=rule)(block)
    assert_alike(make(settings, resize_rule=rule, batch_pixels=10**7)(block), alone)
    for row in alone.to_pylist():
        if row["status"] == "ok" and settings.task == "semantic":
            assert row["coverage"] == 1.0


@TASKS
@RULES
def test_maps_are_those_of_the_published_way(make, blocks, settings, model_folder, rule):
    """The whole model, then the image processor's post-processing, query by query."""
    model = MaskFormerForInstanceSegmentation.from_pretrained(model_folder).eval()
    processor = processor_with(rule)
    for row in make(settings, resize_rule=rule)(blocks(processor)).to_pylist():
        if row["status"] != "ok":
            continue
        inputs = processor(Image.open(row["uri"]), return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs)
        size = [(row["height"], row["width"])]
        sizes = {"target_sizes": size}
        if rule == "detectron2":
            sizes["image_sizes"] = [processor.resized_size(size[0])]
        thresholds = {
            "threshold": settings.threshold, "mask_threshold": 0.5,
            "overlap_mask_area_threshold": settings.overlap_mask_area_threshold,
        }  # fmt: skip
        if settings.task == "semantic":
            (labels,) = processor.post_process_semantic_segmentation(outputs, **sizes)
            by_id = {s["segment_id"]: s["label_id"] for s in row["segments"]}
            found = np.vectorize(by_id.__getitem__)(id_map(row))
            assert np.mean(found != labels.numpy()) < 0.003
            continue
        (result,) = getattr(processor, f"post_process_{settings.task}_segmentation")(
            outputs, **sizes, **thresholds
        )
        assert np.mean(id_map(row) != result["segmentation"].numpy()) < 0.003
        for ours, theirs in zip(row["segments"], result["segments_info"], strict=True):
            assert (ours["segment_id"], ours["label_id"]) == (theirs["id"], theirs["label_id"])
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_rows_that_are_no_good_image_pass_through(make, block):
    fault = {"unit_id": "u", "kind": "fault", "error_message": "StorageFault: away"}
    mixed = pa.concat_tables([block, pa.Table.from_pylist([fault], schema=BLOCK)])
    rows = make(PANOPTIC)(mixed).to_pylist()
    assert [row["kind"] for row in rows] == ["image"] * (len(SIZES) + 1) + ["end", "fault"]
    assert [row["image_id"] for row in rows] == mixed["image_id"].to_pylist()
    (failed,) = [row for row in rows if row["status"] == "error"]
    assert (failed["image_id"], failed["error_class"]) == ("4b.png", "NotAnImage")
    assert (failed["num_segments"], failed["segments"]) == (0, [])
    assert (failed["coverage"], failed["mean_score"]) == (None, None)
    assert rows[-2]["position"] == len(SIZES) + 1
    assert rows[-1]["error_message"] == "StorageFault: away"
    assert (rows[-1]["status"], rows[-2]["status"]) == (None, None)


def test_images_of_two_units_keep_their_own_segments(make, block):
    """Ray may join blocks of two units, in which positions come twice."""
    segmenter = make(PANOPTIC)
    units = pa.array(["other"] * block.num_rows)
    other = block.set_column(0, "unit_id", units).take(list(range(block.num_rows))[::-1])
    together = segmenter(pa.concat_tables([block, other]))
    assert together.equals(pa.concat_tables([segmenter(block), segmenter(other)]))


def test_blocks_without_a_single_image_are_fine(make, block):
    segmenter = make(PANOPTIC)
    assert segmenter(block.slice(0, 0)).num_rows == 0
    assert segmenter(block.slice(block.num_rows - 1)).to_pylist()[0]["kind"] == "end"


def test_an_image_in_which_nothing_is_sure_has_no_segments(make, block):
    for row in make(PANOPTIC, threshold=1.0)(block).to_pylist():
        if row["status"] == "ok":
            assert (row["num_segments"], row["segments"]) == (0, [])
            assert (row["coverage"], row["mean_score"]) == (0.0, None)


def test_things_and_stuff_are_told_apart(make, block):
    def is_thing(settings: SegmentSettings) -> dict[str, set[bool]]:
        found: dict[str, set[bool]] = {}
        for row in make(settings)(block).to_pylist():
            for segment in row["segments"] or ():
                found.setdefault(segment["label"], set()).add(segment["is_thing"])
        return found

    common = max(is_thing(PANOPTIC), key=lambda label: LABELS.index(label))
    fused = dataclasses.replace(PANOPTIC, label_ids_to_fuse=(LABELS.index(common),))
    assert all(things == {label != common} for label, things in is_thing(fused).items())
    assert all(things == {True} for things in is_thing(INSTANCE).values())
    assert all(things == {False} for things in is_thing(SEMANTIC).values())


def test_a_fused_label_has_one_segment_in_an_image(make, block):
    everything = dataclasses.replace(PANOPTIC, label_ids_to_fuse=tuple(range(len(LABELS))))
    apart, fused = (make(settings)(block).to_pylist() for settings in (PANOPTIC, everything))
    names = [[s["label"] for s in row["segments"] or ()] for row in fused]
    assert all(len(set(each)) == len(each) for each in names)
    more = [len(row["segments"] or ()) - len(each) for row, each in zip(apart, names, strict=True)]
    assert max(more) > 0  # else nothing was there to fuse
    for row in fused:
        assert all(not segment["is_thing"] for segment in row["segments"] or ())


def test_semantic_regions_cover_the_image_with_one_segment_per_label(make, block):
    for row in make(SEMANTIC)(block).to_pylist():
        if row["status"] == "ok":
            assert row["coverage"] == 1.0
            labels = [segment["label"] for segment in row["segments"]]
            assert len(set(labels)) == len(labels)


def test_two_threads_at_once_give_what_one_gives(make, block):
    segmenter = make(PANOPTIC)
    expected = segmenter(block)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(segmenter, [block] * 4):
            assert found.equals(expected)


def test_more_threads_of_arithmetic_give_the_same(model_files, make, block):
    two = Segmenter(model_files, settings=PANOPTIC, num_threads=2)
    assert_alike(two(block), make(PANOPTIC)(block))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bits_give_nearly_the_same_labels(make, block, precision):
    exact = make(SEMANTIC)(block).to_pylist()
    rough = make(SEMANTIC, precision=precision)(block).to_pylist()
    by_label = []
    for rows in (exact, rough):
        ok = [row for row in rows if row["status"] == "ok"]
        by_label.append(
            [
                np.vectorize({s["segment_id"]: s["label_id"] for s in row["segments"]}.get)(
                    id_map(row)
                )
                for row in ok
            ]
        )
    for ours, theirs in zip(*by_label, strict=True):
        assert np.mean(ours == theirs) > 0.8
