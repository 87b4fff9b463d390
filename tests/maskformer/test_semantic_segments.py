"""Semantic maps and segments: the label whose masks sum highest, in pieces or at once."""

import pytest
import torch
from drawn_outputs import PROCESSOR, boxes, class_logits, outputs

from maskformer.postprocessing.semantic import (
    resized_semantic_scores,
    semantic_scores,
    semantic_segmentation,
    semantic_segments,
)


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
