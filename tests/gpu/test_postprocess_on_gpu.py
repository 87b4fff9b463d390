"""Post-processing on a GPU: the maps that the CPU makes, with one wait for an image or a batch."""

from typing import Any

import numpy as np
import pytest
import torch
from waits import no_hidden_waits, waits

from maskformer import (
    BatchPostprocessor,
    EncodedSegments,
    instance_segmentation,
    keep_instance,
    keep_panoptic,
    panoptic_segmentation,
    semantic_segments,
)
from maskformer.postprocessing.segments import KeptQueries, Segmentation

GPU = torch.device("cuda")
TARGET, MASKS, LABELS = (241, 330), (32, 48), 7
PADDED = {"image_size": (120, 170), "padded_size": (128, 192)}
WAYS = pytest.mark.parametrize("sizes", [{}, PADDED], ids=["whole", "padded"])


def logits(queries: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws logits of sure classes and of smooth masks."""
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


TARGETS = [(241, 330), (330, 241), (241, 330), (97, 61), (1, 1), (512, 704), (241, 330), (64, 64)]
IMAGES = [(120, 170), (128, 120), (120, 170), (90, 57), (1, 1), (128, 192), (33, 192), (64, 64)]


def batch_of(device: torch.device, *, queries: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = [logits(queries) for _ in TARGETS]
    classes = torch.stack([each + 0.1 * n for n, (each, _) in enumerate(drawn)])
    masks = torch.stack([each.roll(n, 0) for n, (_, each) in enumerate(drawn)])
    return classes.to(device), masks.to(device)


def sizes_of(*, is_padded: bool) -> dict[str, Any]:
    sizes: dict[str, Any] = {"target_sizes": TARGETS}
    return sizes | ({"image_sizes": IMAGES, "padded_size": (128, 192)} if is_padded else {})


def processor_of(task: Any, *, uses_kernels: bool | None = None) -> BatchPostprocessor:
    if task == "semantic":
        return BatchPostprocessor("semantic", uses_kernels=uses_kernels)
    return BatchPostprocessor(
        task,
        threshold=0.3,
        overlap_mask_area_threshold=0.3,
        label_ids_to_fuse={1, 2} if task == "panoptic" else (),
        uses_kernels=uses_kernels,
    )


def assert_alike(found: EncodedSegments, expected: EncodedSegments) -> None:
    """Compares segments; a pixel on a border may go either way."""
    assert found.num_segments.tolist() == expected.num_segments.tolist()
    assert found.label_ids.tolist() == expected.label_ids.tolist()
    np.testing.assert_allclose(found.areas, expected.areas, atol=20, rtol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


@pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_batch_gives_what_the_cpu_gives_by_kernels_and_by_plain_operations(task, is_padded):
    sizes = sizes_of(is_padded=is_padded)
    cpu = processor_of(task).start(*batch_of(torch.device("cpu")), **sizes).result()
    assert cpu.num_segments.max() > 2
    for uses_kernels in (True, False):
        processor = processor_of(task, uses_kernels=uses_kernels)
        assert_alike(processor.start(*batch_of(GPU), **sizes).result(), cpu)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_kernels_give_what_plain_operations_give_to_the_byte(task):
    """Compares the same arithmetic: nothing is fused, and no sum depends on the order."""
    sizes = sizes_of(is_padded=False)
    kernels, plain = (
        processor_of(task, uses_kernels=uses).start(*batch_of(GPU), **sizes).result()
        for uses in (True, False)
    )
    assert kernels.rle_text.tobytes() == plain.rle_text.tobytes()
    assert kernels.scores.tobytes() == plain.scores.tobytes()
    assert kernels.second_label_ids.tobytes() == plain.second_label_ids.tobytes()
    assert kernels.second_scores.tobytes() == plain.second_scores.tobytes()
    assert (kernels.second_label_ids >= 0).all()


@pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_batch_waits_for_its_transfer_alone(task, is_padded):
    """`result` waits for an event, which is no wait that torch could hide in an operation."""
    processor, batch, sizes = processor_of(task), batch_of(GPU), sizes_of(is_padded=is_padded)
    for _ in range(2):
        processor.start(*batch, **sizes).result()
    with no_hidden_waits():
        processor.start(*batch, **sizes).result()
