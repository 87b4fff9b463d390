from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import ColourModel, PatchModel, drawn_scene, palette, plain_processor, scenery
from tiny import make_tiny

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.inference.spans import spans
from maskformer.inference.windows import SlidingWindows
from maskformer.metrics import PanopticQuality

NUM_THINGS = 8
NUM_LABELS = 4
# Ground is labels 0 and 1; boxes are of labels 2 and 3 in turn.
LABELS = [0, 1, *(2 + place % 2 for place in range(NUM_THINGS))]


MODEL = PatchModel()


@pytest.mark.parametrize("resize_rule", ["transformers", "detectron2"])
def test_one_window_is_no_window(resize_rule):
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 80, "longest_edge": 200}, resize_rule=resize_rule
    )
    image = scenery((70, 100))
    pixels = processor.resize(image)
    values = processor.normalize(torch.from_numpy(pixels)[None])
    with torch.no_grad():
        outputs = MODEL(values)
    sizes = {"target_sizes": [(70, 100)]}
    if resize_rule == "detectron2":
        sizes["image_sizes"] = [pixels.shape[:2]]
    (labels,) = processor.post_process_semantic_segmentation(outputs, **sizes)
    rule = {"threshold": 0.3, "overlap_mask_area_threshold": 0.1, "label_ids_to_fuse": {1}}
    (panoptic,) = processor.post_process_panoptic_segmentation(outputs, **rule, **sizes)
    assert len(labels.unique()) > 1
    assert len(panoptic["segments_info"]) > 1
    windows = SlidingWindows(MODEL, processor, window_size=(70, 100), overlap=8)
    assert torch.equal(windows.semantic(image), labels)
    found = windows.panoptic(image, **rule)
    assert torch.equal(found.segmentation, panoptic["segmentation"])
    for segment, info in zip(found.segments, panoptic["segments_info"], strict=True):
        assert (segment.id, segment.label_id, segment.was_fused) == (
            info["id"],
            info["label_id"],
            info["was_fused"],
        )
        assert segment.score == pytest.approx(info["score"], abs=1e-6)


def test_windows_take_the_models_of_this_package():
    processor = MaskFormerImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    windows = SlidingWindows(make_tiny(), processor, window_size=(40, 50), overlap=8)
    assert windows.semantic(scenery((60, 70))).shape == (60, 70)
    found = windows.panoptic(scenery((60, 70)), threshold=0.0)
    assert found.segmentation.max() == len(found.segments)


@pytest.mark.parametrize("window_size", [(40, 50), (33, 140), (90, 31), (25, 25)])
@pytest.mark.parametrize("overlap", [1, 12])
@pytest.mark.parametrize("seed", range(3))
def test_a_scene_cut_over_windows_gives_its_segments_back_in_place(window_size, overlap, seed):
    image, places = drawn_scene(np.random.default_rng(seed), size=(90, 140), num_things=NUM_THINGS)
    model = ColourModel(palette(len(LABELS)), LABELS, num_labels=NUM_LABELS)
    windows = SlidingWindows(model, plain_processor(), window_size=window_size, overlap=overlap)
    found = windows.panoptic(image, label_ids_to_fuse={0, 1})
    present = np.unique(places).tolist()
    assert len(found.segments) == len(present) > 4
    metric = PanopticQuality(NUM_LABELS, things=[2, 3])
    metric.update(
        {
            "segmentation": found.segmentation,
            "segments_info": [{"id": s.id, "label_id": s.label_id} for s in found.segments],
        },
        {
            "segmentation": places + 1,
            "segments_info": [{"id": p + 1, "label_id": LABELS[p]} for p in present],
        },
    )
    assert metric.compute()["pq"] == 1
    assert [s.was_fused for s in found.segments] == [s.label_id < 2 for s in found.segments]
    labels = windows.semantic(image)
    assert (labels.numpy() == np.array(LABELS)[places]).all()


def test_the_budget_of_bytes_changes_no_window():
    processor = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 200})
    image = scenery((150, 190))
    maps = [
        SlidingWindows(
            MODEL, processor, window_size=(64, 80), overlap=20, byte_budget=budget
        ).semantic(image)
        for budget in (1, 40_000, 1 << 30)
    ]
    assert len(maps[0].unique()) > 1
    for other in maps[1:]:
        # Sums of products of another shape may differ in their last bits.
        assert (other == maps[0]).float().mean() > 0.999


def test_windows_blend_without_a_seam():
    """Checks that weights of overlapping windows sum to one and neither ends abruptly."""
    (one, other) = spans(100, window=60, overlap=20)
    sums = np.zeros(100)
    for span in (one, other):
        sums[span.start : span.stop] += span.weights()
    assert sums == pytest.approx(np.ones(100))
    assert one.weights()[-1] < 0.05
    assert other.weights()[0] < 0.05
    assert one.weights()[0] == other.weights()[-1] == 1


@settings(max_examples=200)
@given(st.data())
def test_windows_cover_a_side_overlap_enough_and_share_it_out(data):
    length = data.draw(st.integers(1, 300))
    window = data.draw(st.integers(2, 120))
    overlap = data.draw(st.integers(1, window // 2))
    found = spans(length, window=window, overlap=overlap)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert all(span.stop - span.start == min(window, length) for span in found)
    for one, other in pairwise(found):
        assert one.stop - other.start >= overlap
        assert one.core.stop == other.core.start
        assert other.start <= other.core.start <= one.stop
    assert (found[0].core.start, found[-1].core.stop) == (0, length)
    assert all((span.weights() > 0).all() for span in found)


def test_an_overlap_that_joins_nothing_is_refused():
    for overlap in (0, 31):
        with pytest.raises(ValueError, match="overlap must be 1 to half of the window"):
            SlidingWindows(MODEL, plain_processor(), window_size=(60, 80), overlap=overlap)
