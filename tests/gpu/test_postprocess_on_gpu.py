"""Post-processing on a GPU: the maps that the CPU makes, with one wait for an image."""

import pytest
import torch
from waits import waits

from maskformer import (
    instance_segmentation,
    keep_instance,
    keep_panoptic,
    panoptic_segmentation,
    semantic_segments,
)
from maskformer.postprocessing.segmentation import KeptQueries, Segmentation

GPU = torch.device("cuda")
TARGET, MASKS, LABELS = (241, 330), (32, 48), 7
PADDED = {"image_size": (120, 170), "padded_size": (128, 192)}
WAYS = pytest.mark.parametrize("sizes", [{}, PADDED], ids=["whole", "padded"])


def logits(queries: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Of classes that are sure, and of smooth masks."""
    random = torch.Generator().manual_seed(5)
    classes = 6 * torch.randn(queries, LABELS + 1, generator=random)
    coarse = 8 * torch.randn(1, queries, 6, 8, generator=random)
    masks = torch.nn.functional.interpolate(coarse, MASKS, mode="bilinear")[0]
    return classes, masks


def on(device: torch.device, kept: KeptQueries) -> KeptQueries:
    return KeptQueries(
        queries=kept.queries.to(device),
        labels=kept.labels.to(device),
        scores=kept.scores.to(device),
    )


def segmented(task: str, device: torch.device, sizes: dict) -> Segmentation:
    classes, masks = logits()
    if task == "semantic":
        return semantic_segments(classes.to(device), masks.to(device), target_size=TARGET, **sizes)
    keep = keep_panoptic if task == "panoptic" else keep_instance
    kept = keep(classes, threshold=0.3)
    masks = masks[kept.queries].to(device)
    overlap = {"overlap_mask_area_threshold": 0.05}
    if task == "panoptic":
        return panoptic_segmentation(
            masks, on(device, kept), TARGET, label_ids_to_fuse={1, 2}, **overlap, **sizes
        )
    return instance_segmentation(
        masks, on(device, kept), threshold=0.3, target_size=TARGET, **overlap, **sizes
    )


@WAYS
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_maps_and_segments_are_those_of_the_cpu(task, sizes):
    expected = segmented(task, torch.device("cpu"), sizes)
    found = segmented(task, GPU, sizes)
    assert found.segmentation.device.type == "cpu"
    assert (found.segmentation != expected.segmentation).float().mean() < 1e-4
    assert len(found.segments) == len(expected.segments) > 2
    for ours, theirs in zip(found.segments, expected.segments, strict=True):
        assert (ours.id, ours.label_id, ours.was_fused) == (
            theirs.id,
            theirs.label_id,
            theirs.was_fused,
        )
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


@WAYS
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_an_image_waits_once(task, sizes):
    classes, masks = logits()
    kept = keep_panoptic(classes, threshold=0.3)
    kept_masks, kept, classes, masks = (
        masks[kept.queries].to(GPU),
        on(GPU, kept),
        classes.to(GPU),
        masks.to(GPU),
    )

    def segment() -> Segmentation:
        if task == "semantic":
            return semantic_segments(classes, masks, TARGET, **sizes)
        return panoptic_segmentation(kept_masks, kept, TARGET, **sizes)

    assert len(waits(segment)) == 1
