from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.postprocessing.instances import (
    instance_masks,
    instance_segmentation,
    keep_instance,
)
from maskformer.postprocessing.panoptic import keep_panoptic, panoptic_segmentation
from maskformer.postprocessing.segments import KeptQueries
from maskformer.postprocessing.semantic import (
    resized_semantic_scores,
    semantic_scores,
    semantic_segmentation,
    semantic_segments,
)
from maskformer.run_lengths.rle import decode_rle

NUM_LABELS = 4
PROCESSOR = MaskFormerImageProcessor()


def smooth(*shape, generator):
    """Logits that change slowly over the image, as those of a model do."""
    coarse = torch.randn(*shape[:-2], 4, 5, generator=generator) * 6
    flat = coarse.reshape(1, -1, 4, 5)
    resized = torch.nn.functional.interpolate(flat, size=shape[-2:], mode="bicubic")
    return resized.reshape(shape)


def outputs(*, batch_size=2, num_queries=12, height=20, width=28, seed=0, sharpness=5.0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(batch_size, num_queries, NUM_LABELS + 1, generator=generator)
    return SimpleNamespace(
        class_queries_logits=classes * sharpness,
        masks_queries_logits=smooth(batch_size, num_queries, height, width, generator=generator),
    )


def class_logits(*scores_and_labels):
    """Makes a query for each (score, label), which gives the rest of its probability to null."""
    probabilities = torch.full((len(scores_and_labels), NUM_LABELS + 1), 1e-9)
    for query, (score, label) in enumerate(scores_and_labels):
        probabilities[query, label] = score
        probabilities[query, NUM_LABELS] = 1 - score
    return probabilities.log()


def boxes(*columns, height=4, width=12, inside=9.0):
    """Makes a mask for each (from, to): a full-height stripe of these columns."""
    logits = torch.full((len(columns), height, width), -inside)
    for mask, (start, stop) in zip(logits, columns, strict=True):
        mask[:, start:stop] = inside
    return logits


def segment_panoptic(classes, masks, target_size=None, *, threshold=0.5, **settings_):
    kept = keep_panoptic(classes, threshold=threshold)
    return panoptic_segmentation(masks[kept.queries], kept, target_size, **settings_)


def segment_instances(classes, masks, target_size=None, *, threshold=0.5, **settings_):
    kept = keep_instance(classes, threshold=threshold)
    return instance_segmentation(
        masks[kept.queries], kept, target_size, threshold=threshold, **settings_
    )


def segment_rows_of(segmentation):
    return [(s.id, s.label_id, round(s.score, 3), s.was_fused) for s in segmentation.segments]


# Panoptic


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


# Instances


def test_instances_agree_with_transformers_where_they_do_not_overlap(transformers_processor):
    classes = class_logits((0.7, 2), (0.9, 1), (0.8, 1))[None]
    masks = boxes((0, 3), (5, 7), (8, 12))[None]
    output = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    (theirs,) = transformers_processor().post_process_instance_segmentation(output)
    (ours,) = PROCESSOR.post_process_instance_segmentation(output)

    def described(result):
        return {
            (info["label_id"], round(info["score"], 5)): (result["segmentation"] == info["id"])
            .nonzero()
            .tolist()
            for info in result["segments_info"]
        }

    assert described(ours) == described(theirs)


def test_differs_from_transformers_instances_stand_in_the_order_of_their_scores():
    found = segment_instances(
        class_logits((0.7, 2), (0.9, 1), (0.8, 1)), boxes((0, 3), (5, 7), (8, 12))
    )
    assert segment_rows_of(found) == [(1, 1, 0.9, False), (2, 1, 0.8, False), (3, 2, 0.7, False)]


def test_differs_from_transformers_the_better_instance_has_the_pixels_that_two_cover():
    for order in ((0.9, 0.8), (0.8, 0.9)):
        found = segment_instances(
            class_logits((order[0], 0), (order[1], 1)),
            boxes((0, 8), (6, 12)),
            overlap_mask_area_threshold=0.5,
        )
        better = found.segments[0].label_id
        assert (found.segmentation == 1).sum() == 4 * (8, 6)[better]


def test_differs_from_transformers_an_instance_that_lost_too_much_is_dropped():
    classes, masks = class_logits((0.9, 0), (0.8, 1)), boxes((0, 8), (4, 12))
    assert len(segment_instances(classes, masks, overlap_mask_area_threshold=0.5).segments) == 2
    dropped = segment_instances(classes, masks, overlap_mask_area_threshold=0.51)
    assert len(dropped.segments) == 1
    assert dropped.segmentation[0].tolist() == [1] * 8 + [0] * 4


def test_the_second_label_of_an_instance_is_on_the_scale_of_its_score():
    """Takes a query with two labels: an instance of each, which is the other's second label."""
    classes = torch.tensor([[0.6, 0.3, 0.05, 0.05]]).log()
    found = segment_instances(
        classes, boxes((0, 8)), threshold=0.01, overlap_mask_area_threshold=0.0
    )
    (first,) = found.segments  # the second one has no pixel left
    assert (first.label_id, first.second_label_id) == (0, 1)
    assert first.second_score / first.score == pytest.approx(0.3 / 0.6, abs=1e-5)


def test_an_instance_of_a_querys_second_label_has_its_first_as_the_second():
    kept = keep_instance(torch.tensor([[0.6, 0.3, 0.05, 0.05]]).log(), threshold=0.1, most=2)
    assert kept.labels.tolist() == [0, 1]
    assert kept.second_labels.tolist() == [1, 0]
    assert kept.second_scores.tolist() == pytest.approx([0.3, 0.6], abs=1e-6)


def test_an_instance_that_was_dropped_hides_nobody():
    classes = class_logits((0.9, 0), (0.8, 1), (0.7, 2))
    found = segment_instances(
        classes, boxes((0, 6), (3, 9), (7, 12)), overlap_mask_area_threshold=0.8
    )
    assert [segment.label_id for segment in found.segments] == [0, 2]
    assert found.segmentation[0].tolist() == [1] * 6 + [0] + [2] * 5


def test_differs_from_transformers_the_mask_threshold_has_effect_on_instances():
    masks = boxes((2, 6))
    masks[:, :, 6:9] = 0.85  # a probability of 0.7
    areas = [
        int(
            (
                segment_instances(class_logits((0.9, 0)), masks, mask_threshold=t).segmentation == 1
            ).sum()
        )
        for t in (0.5, 0.8)
    ]
    assert areas == [4 * 7, 4 * 4]


def test_differs_from_transformers_instance_masks_are_resized_as_logits():
    found = segment_instances(class_logits((0.9, 0)), boxes((0, 6)), (8, 120))
    # Resized as a 0/1 mask, by the nearest sample, a far stronger inside would change nothing.
    masks = boxes((0, 6))
    masks[masks > 0] = 90.0
    stronger = segment_instances(class_logits((0.9, 0)), masks, (8, 120))
    assert (stronger.segmentation == 1).sum() > (found.segmentation == 1).sum()


def test_a_query_may_become_instances_of_several_labels_up_to_the_number_of_queries():
    probabilities = torch.tensor([[0.5, 0.4, 0.05, 0.04, 0.01], [0.3, 0.3, 0.3, 0.05, 0.05]])
    kept = keep_instance(probabilities.log(), threshold=0.1)
    assert kept.queries.tolist() == [0, 0]
    assert kept.labels.tolist() == [0, 1]
    ties = keep_instance(probabilities[1:].log().expand(4, -1), threshold=0.2)
    assert ties.queries.tolist() == [0, 0, 0, 1]
    assert ties.labels.tolist() == [0, 1, 2, 0]


def test_a_score_that_the_mask_takes_below_the_threshold_is_dropped_before_resizing():
    masks = boxes((0, 6), (6, 12), inside=0.2)
    found = segment_instances(class_logits((0.9, 0), (0.8, 1)), masks, threshold=0.48)
    assert [segment.label_id for segment in found.segments] == [0]
    probability = torch.tensor(0.2).sigmoid().item()
    assert found.segments[0].score == pytest.approx(0.9 * probability, abs=1e-4)


def test_differs_from_transformers_coco_annotations_are_what_cocos_tools_read():
    coco = pytest.importorskip("pycocotools.mask")
    output = outputs(seed=2)
    given_ = {"target_sizes": [(30, 44), (51, 20)], "overlap_mask_area_threshold": 0.3}
    maps = PROCESSOR.post_process_instance_segmentation(output, return_binary_maps=True, **given_)
    annotated = PROCESSOR.post_process_instance_segmentation(
        output, return_coco_annotation=True, **given_
    )
    for masks, annotations in zip(maps, annotated, strict=True):
        assert masks["segments_info"] == annotations["segments_info"]
        assert len(annotations["segmentation"]) == len(annotations["segments_info"]) > 0
        for mask, annotation in zip(
            masks["segmentation"], annotations["segmentation"], strict=True
        ):
            assert (coco.decode(annotation) == mask.numpy()).all()
            height, width = annotation["size"]
            ours = decode_rle(annotation["counts"], height=height, width=width)
            assert (ours == mask.bool().numpy()).all()


def test_binary_maps_are_whole_masks_one_for_each_segment_even_for_none():
    classes, masks = class_logits((0.9, 0), (0.8, 1)), boxes((0, 8), (4, 12))
    output = SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])
    (found,) = PROCESSOR.post_process_instance_segmentation(
        output, overlap_mask_area_threshold=0.5, return_binary_maps=True
    )
    assert found["segmentation"].sum((1, 2)).tolist() == [32, 32]
    (none,) = PROCESSOR.post_process_instance_segmentation(
        output, threshold=0.99, return_binary_maps=True
    )
    assert none["segmentation"].shape == (0, 4, 12)
    assert none["segments_info"] == []


def test_whole_masks_with_no_overlap_threshold_include_hidden_instances():
    classes, masks = class_logits((0.9, 0), (0.8, 1)), boxes((0, 8), (2, 6))
    kept = keep_instance(classes, threshold=0.5)
    arguments = (masks[kept.queries], kept)
    assert len(instance_masks(*arguments, overlap_mask_area_threshold=0.0).segments) == 2
    assert len(instance_segmentation(*arguments, overlap_mask_area_threshold=0.0).segments) == 1


def test_an_instance_result_has_one_form():
    with pytest.raises(ValueError, match="can not be both"):
        PROCESSOR.post_process_instance_segmentation(
            outputs(), return_coco_annotation=True, return_binary_maps=True
        )


# Semantic


@pytest.mark.parametrize("seed", range(4))
def test_semantic_maps_agree_with_transformers(transformers_processor, seed):
    sizes = [(61, 90), (33, 147)]
    given_ = outputs(seed=seed, sharpness=1.0)
    for target_sizes in (sizes, None):
        theirs = transformers_processor().post_process_semantic_segmentation(
            given_, target_sizes=target_sizes
        )
        ours = PROCESSOR.post_process_semantic_segmentation(given_, target_sizes=target_sizes)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype == torch.int64
            assert (one == other).float().mean() >= 0.999


def test_semantic_scores_agree_with_transformers(transformers_processor):
    theirs = transformers_processor().post_process_semantic_segmentation(
        outputs(), target_sizes=[(61, 90)] * 2, return_segmentation_scores=True
    )
    ours = PROCESSOR.post_process_semantic_segmentation(
        outputs(), target_sizes=[(61, 90)] * 2, return_segmentation_scores=True
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.segmentation_scores, other.segmentation_scores)
        assert (one.segmentation == other.segmentation).float().mean() >= 0.999


@pytest.mark.parametrize("padded", [{}, {"image_size": (70, 100), "padded_size": (80, 112)}])
@pytest.mark.parametrize("byte_budget", [1, 3_000, 100_000])
def test_label_maps_made_in_pieces_are_those_made_in_one(padded, byte_budget):
    output = outputs(seed=4, sharpness=1.0)
    arguments = (output.class_queries_logits[0], output.masks_queries_logits[0], (90, 131))
    whole = semantic_segmentation(*arguments, byte_budget=1 << 30, **padded)
    pieces = semantic_segmentation(*arguments, byte_budget=byte_budget, **padded)
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("padded", [{}, {"image_size": (70, 100), "padded_size": (80, 112)}])
def test_semantic_segments_are_the_labels_that_occur_with_their_mean_share(padded):
    output = outputs(seed=6, sharpness=2.0)
    arguments = (output.class_queries_logits[0], output.masks_queries_logits[0], (90, 131))
    label_map = semantic_segmentation(*arguments, **padded)
    found = semantic_segments(*arguments, **padded, byte_budget=20_000)
    labels = label_map.unique().tolist()
    assert [segment.label_id for segment in found.segments] == labels
    assert [segment.id for segment in found.segments] == list(range(1, len(labels) + 1))
    scores = resized_semantic_scores(*arguments, **padded)
    shares = scores.amax(0) / scores.sum(0)
    for segment in found.segments:
        is_label = label_map == segment.label_id
        assert torch.equal(found.segmentation == segment.id, is_label)
        assert segment.score == pytest.approx(shares[is_label].mean().item(), abs=1e-4)
        assert 0 < segment.score <= 1


def test_scores_of_labels_are_masks_weighted_by_probabilities():
    scores = semantic_scores(class_logits((0.9, 0), (0.5, 1)), boxes((0, 6), (6, 12)))
    assert scores[0, 0, 0].item() == pytest.approx(0.9, abs=1e-3)
    assert scores[1, 0, 11].item() == pytest.approx(0.5, abs=1e-3)


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
