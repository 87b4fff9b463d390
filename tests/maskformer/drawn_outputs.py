"""Drawn outputs of a model, and what is looked at of the segments that they become."""

from types import SimpleNamespace

import torch

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.postprocessing.instances import (
    instance_segmentation,
    keep_instance,
)
from maskformer.postprocessing.panoptic import keep_panoptic, panoptic_segmentation

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
    """Lists id, label, score and whether it was fused of each segment."""
    return [(s.id, s.label_id, round(s.score, 3), s.was_fused) for s in segmentation.segments]
