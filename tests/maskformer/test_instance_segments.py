"""Instances: the best first, whole masks or a map, and second labels on the scale of scores."""

from types import SimpleNamespace

import pytest
import torch
from drawn_outputs import (
    PROCESSOR,
    boxes,
    class_logits,
    outputs,
    segment_instances,
    segment_rows_of,
)

from maskformer.postprocessing.instances import (
    instance_masks,
    instance_segmentation,
    keep_instance,
)
from maskformer.run_lengths.rle import decode_rle


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
