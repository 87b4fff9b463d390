"""Panoptic segments, padding, and what all three tasks share: in pieces, in memory, in sizes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_outputs import (
    PROCESSOR,
    boxes,
    class_logits,
    outputs,
    segment_instances,
    segment_panoptic,
    segment_rows_of,
)

from maskformer.postprocessing.panoptic import keep_panoptic, panoptic_segmentation
from maskformer.postprocessing.segments import KeptQueries
from maskformer.postprocessing.semantic import (
    semantic_segmentation,
)


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_maps_agree_with_transformers_where_the_definitions_agree(
    transformers_processor, seed
):
    # With mask_threshold 0 a mask's own area is the whole image in both, weighted or not.
    given_ = {"threshold": 0.6, "mask_threshold": 0.0, "overlap_mask_area_threshold": 0.05}
    sizes = [(61, 90), (33, 47)]
    theirs = transformers_processor().post_process_panoptic_segmentation(
        outputs(seed=seed), label_ids_to_fuse=set(), target_sizes=sizes, **given_
    )
    ours = PROCESSOR.post_process_panoptic_segmentation(
        outputs(seed=seed), target_sizes=sizes, **given_
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["segments_info"] == other["segments_info"]
        assert one["segmentation"].dtype == other["segmentation"].dtype == torch.int32
        assert (one["segmentation"] == other["segmentation"]).float().mean() > 0.999


def test_without_target_sizes_maps_have_the_size_of_the_logits():
    for result in PROCESSOR.post_process_panoptic_segmentation(outputs(height=13, width=17)):
        assert result["segmentation"].shape == (13, 17)


def test_differs_from_transformers_void_is_0_also_when_nothing_is_kept():
    empty = segment_panoptic(class_logits((0.2, 1)), boxes((0, 12)), (8, 24))
    assert empty.segments == ()
    assert empty.segmentation.dtype == torch.int32
    assert (empty.segmentation == torch.zeros(8, 24)).all()
    nothing = segment_instances(class_logits((0.2, 1)), boxes((0, 12)), (8, 24))
    assert (nothing.segments, nothing.segmentation.dtype) == ((), torch.int32)
    assert (nothing.segmentation == 0).all()


def test_differs_from_transformers_segment_ids_are_unique_after_a_fused_label_is_met_again():
    classes = class_logits((0.9, 0), (0.9, 1), (0.9, 0), (0.9, 2))
    masks = boxes((0, 3), (3, 6), (6, 9), (9, 12))
    found = segment_panoptic(classes, masks, label_ids_to_fuse={0})
    assert found.segmentation[0].tolist() == [1, 1, 1, 2, 2, 2, 1, 1, 1, 3, 3, 3]
    assert [segment.id for segment in found.segments] == [1, 2, 3]


def test_differs_from_transformers_a_fused_label_has_one_row_with_the_mean_score_by_area():
    classes = class_logits((0.9, 0), (0.6, 0), (0.8, 1))
    found = segment_panoptic(classes, boxes((0, 9), (9, 12), (0, 0)), label_ids_to_fuse={0})
    assert segment_rows_of(found) == [(1, 0, round(0.9 * 0.75 + 0.6 * 0.25, 3), True)]
    apart = segment_panoptic(classes, boxes((0, 9), (9, 12), (0, 0)))
    assert segment_rows_of(apart) == [(1, 0, 0.9, False), (2, 0, 0.6, False)]


def test_differs_from_transformers_a_masks_own_area_is_not_weighted_by_its_score():
    # Query 1 has probability 0.7 in all columns: in its mask, but not after weighting by 0.6.
    masks = boxes((0, 8), (8, 12))
    masks[1] = torch.where(masks[1] > 0, 9.0, 0.85)
    classes = class_logits((0.9, 0), (0.6, 1))
    assert segment_rows_of(segment_panoptic(classes, masks)) == [(1, 0, 0.9, False)]
    assert len(segment_panoptic(classes, masks, overlap_mask_area_threshold=0.3).segments) == 2


def test_differs_from_transformers_a_threshold_below_the_mask_threshold_has_effect():
    classes = torch.tensor([[0.2, 0.2, 0.3, 0.1, 0.2]]).log()
    found = segment_panoptic(classes, boxes((2, 6)), threshold=0.2)
    assert segment_rows_of(found) == [(1, 2, 0.3, False)]
    assert segment_panoptic(classes, boxes((2, 6)), threshold=0.4).segments == ()


def test_differs_from_transformers_a_share_equal_to_the_overlap_threshold_is_enough():
    classes, masks = class_logits((0.9, 0), (0.8, 1)), boxes((0, 8), (4, 12))
    kept = segment_panoptic(classes, masks, overlap_mask_area_threshold=0.5)
    assert len(kept.segments) == 2
    assert len(segment_panoptic(classes, masks, overlap_mask_area_threshold=0.51).segments) == 1


def test_the_pixels_of_a_query_that_lost_too_much_are_void():
    found = segment_panoptic(class_logits((0.9, 0), (0.8, 1)), boxes((0, 8), (4, 12)))
    assert found.segmentation[0].tolist() == [1] * 8 + [0] * 4


def test_a_score_equal_to_the_threshold_is_not_kept():
    logits = torch.tensor([[2.0, 2.0]])
    assert len(keep_panoptic(logits, threshold=0.5).queries) == 0
    assert keep_panoptic(logits, threshold=0.49).queries.tolist() == [0]


@pytest.mark.parametrize("task", [segment_panoptic, segment_instances])
@pytest.mark.parametrize("padded", [{}, {"image_size": (70, 100), "padded_size": (80, 112)}])
@pytest.mark.parametrize("byte_budget", [1, 3_000, 100_000])
def test_segments_made_in_pieces_are_those_made_in_one(task, padded, byte_budget):
    output = outputs(seed=3)
    arguments = (output.class_queries_logits[0], output.masks_queries_logits[0], (90, 131))
    given_ = {"overlap_mask_area_threshold": 0.2, **padded}
    whole = task(*arguments, byte_budget=1 << 30, **given_)
    pieces = task(*arguments, byte_budget=byte_budget, **given_)
    assert len(whole.segments) > 1
    assert whole.segments == pieces.segments
    assert torch.equal(whole.segmentation, pieces.segmentation)


def test_bfloat16_logits_give_the_segments_of_float32():
    output = outputs(seed=1)
    arguments = output.class_queries_logits[0].bfloat16(), output.masks_queries_logits[0].bfloat16()
    found = segment_panoptic(*arguments, (60, 90))
    expected = segment_panoptic(*(argument.float() for argument in arguments), (60, 90))
    assert found.segments == expected.segments
    assert torch.equal(found.segmentation, expected.segmentation)


# Padding


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_differs_from_transformers_padding_is_cut_off_before_masks_are_resized(task):
    # A square at (8..24, 12..40) of a 48×64 image, in a network input padded to 96×96.
    image, padded, target = (48, 64), (96, 96), (96, 128)
    mask = torch.full((1, 1, 24, 24), -20.0)
    mask[0, 0, 2:6, 3:10] = 20.0
    output = SimpleNamespace(
        class_queries_logits=torch.cat([class_logits((0.95, 1)), class_logits((0.95, 0))])[None],
        masks_queries_logits=torch.cat([mask, -mask], 1),
    )
    function = getattr(PROCESSOR, f"post_process_{task}_segmentation")
    (found,) = function(output, target_sizes=[target], image_sizes=[image])
    label_map = found if task == "semantic" else found["segmentation"]
    label = 1 if task == "semantic" else label_map[32, 52]
    expected = torch.zeros(target, dtype=torch.bool)
    expected[16:48, 24:80] = True
    union = ((label_map == label) | expected).sum()
    assert label != 0
    assert ((label_map == label) & expected).sum() / union > 0.95
    assert padded == (4 * mask.shape[2], 4 * mask.shape[3])


def test_the_published_way_agrees_with_resizing_step_by_step():
    output = outputs(seed=5, height=24, width=32)
    classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
    geometry = {"image_size": (90, 111), "padded_size": (96, 128)}

    def resized(maps, size):
        return torch.nn.functional.interpolate(maps[None], size=size, mode="bilinear")[0]

    enlarged = resized(masks, (96, 128))[:, :90, :111]
    probabilities = classes.softmax(-1)[:, :-1]
    scores = torch.einsum("qc,qhw->chw", probabilities, enlarged.sigmoid())
    semantic = semantic_segmentation(classes, masks, (200, 150), **geometry)
    assert (semantic == resized(scores, (200, 150)).argmax(0)).float().mean() > 0.999

    kept = keep_panoptic(classes, threshold=0.5)
    weighted = resized(enlarged, (200, 150))[kept.queries].sigmoid() * kept.scores[:, None, None]
    found = panoptic_segmentation(
        masks[kept.queries], kept, (200, 150), overlap_mask_area_threshold=0.0, **geometry
    )
    labels = torch.tensor([0, *(segment.label_id + 1 for segment in found.segments)])
    expected = kept.labels[weighted.argmax(0)] + 1
    is_segment = found.segmentation > 0
    agree = labels[found.segmentation.long()] == expected
    assert is_segment.float().mean() > 0.5
    assert agree[is_segment].float().mean() > 0.999


def test_an_image_size_needs_a_padded_size_around_it():
    logits = boxes((0, 3))
    with pytest.raises(ValueError, match="padded_size"):
        segment_panoptic(class_logits((0.9, 1)), logits, image_size=(4, 4))
    with pytest.raises(ValueError, match="within"):
        segment_panoptic(class_logits((0.9, 1)), logits, image_size=(17, 4), padded_size=(16, 48))


# All tasks


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_size_is_needed_for_every_image_or_for_none(task):
    function = getattr(PROCESSOR, f"post_process_{task}_segmentation")
    with pytest.raises(ValueError, match="as many target_sizes"):
        function(outputs(), target_sizes=[(3, 4)])


def test_sizes_may_be_a_tensor():
    sizes = torch.tensor([[30, 40], [20, 50]])
    results = PROCESSOR.post_process_panoptic_segmentation(outputs(), target_sizes=sizes)
    assert [tuple(r["segmentation"].shape) for r in results] == [(30, 40), (20, 50)]


def test_masks_that_are_not_numbers_do_no_harm():
    masks = boxes((0, 6), (6, 12))
    masks[0, 0, 0] = torch.nan
    found = segment_panoptic(class_logits((0.9, 0), (0.8, 1)), masks, (8, 24))
    assert set(found.segmentation.unique().tolist()) <= {0, 1, 2}


def test_memory_stays_bounded_when_a_large_map_is_made_of_many_queries():
    num_queries, target = 60, (2000, 1500)
    kept = KeptQueries(
        queries=torch.arange(num_queries),
        labels=torch.zeros(num_queries, dtype=torch.int64),
        scores=torch.ones(num_queries),
    )
    masks = torch.randn(num_queries, 16, 16)
    with torch.profiler.profile(profile_memory=True) as profiled:
        panoptic_segmentation(masks, kept, target)
    largest = max(event.cpu_memory_usage for event in profiled.events())
    assert largest < num_queries * np.prod(target) * 4 / 7
