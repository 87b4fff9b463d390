"""Semantic segments of one image: each pixel goes to the label whose masks sum highest.

Takes what the model gives for one image, on any device. As published, labels are scored at the size
of the network input where something was padded; `panoptic.py` says what `image_size` and
`padded_size` mean. What comes out is on the CPU, copied there once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from maskformer import bilinear
from maskformer.bilinear import CPU, InterpolationGrid
from maskformer.postprocessing.geometry import Crop, Geometry, HeightWidth
from maskformer.postprocessing.host_results import copy_to_host, ids_in_order, replace_by_ids
from maskformer.postprocessing.mask_argmax import mask_argmax_at
from maskformer.postprocessing.segments import Segment, Segmentation

_SCORE_BYTES = 64 << 20
"""Of the scores of all labels at a time: those of most images are within it."""


def semantic_segmentation(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    byte_budget: int | None = None,
) -> Int64[Tensor, "target_height target_width"]:
    """The label of each pixel: the one whose masks, weighted by its probabilities, sum highest."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    bands = _label_bands(class_logits, mask_logits, geometry, byte_budget=byte_budget)
    return torch.cat([band.labels for band in bands]).long()


def semantic_segments(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
    byte_budget: int | None = None,
) -> Segmentation:
    """`semantic_segmentation` as segments, one for each label that occurs, in order of labels.

    A segment's score is the mean over its pixels of its label's share in the sum over all labels.
    """
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    sums = semantic_label_sums(class_logits, mask_logits, geometry, byte_budget=byte_budget)
    means = (sums.share_sums / sums.areas).float()
    labels, host_areas, means = copy_to_host(sums.labels, sums.areas, means)
    ids = ids_in_order([area > 0 for area in host_areas.tolist()])
    segments = tuple(
        Segment(id=segment_id, label_id=label, score=min(float(means[label]), 1.0))
        for label, segment_id in enumerate(ids)
        if segment_id
    )
    return Segmentation(segmentation=replace_by_ids(labels, ids), segments=segments)


@dataclass(frozen=True, kw_only=True)
class LabelSums:
    """A label map on the masks' device, and sums over each label's pixels."""

    labels: Integer[Tensor, "target_height target_width"]
    areas: Int64[Tensor, " labels"]
    share_sums: Float64[Tensor, " labels"]
    """The sum of the label's shares in the scores of all labels."""


def semantic_label_sums(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    geometry: Geometry,
    *,
    byte_budget: int | None = None,
) -> LabelSums:
    """Returns what `semantic_segments` makes segments of. Does not wait for the device."""
    num_labels = class_logits.shape[-1] - 1
    maps, share_sums = [], torch.zeros(num_labels, dtype=torch.float64, device=mask_logits.device)
    areas = torch.zeros(num_labels, dtype=torch.int64, device=mask_logits.device)
    for band in _label_bands(class_logits, mask_logits, geometry, byte_budget=byte_budget):
        # Not torch.bincount, which waits for the device.
        labels = band.labels.flatten().long()
        share_sums.scatter_add_(0, labels, band.shares().double().flatten())
        areas.scatter_add_(0, labels, torch.ones_like(labels))
        maps.append(band.labels)
    return LabelSums(labels=torch.cat(maps), areas=areas, share_sums=share_sums)


def semantic_scores(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
) -> Float[Tensor, "labels height width"]:
    """Computes each label's score at the resolution of the mask logits: masks times probability."""
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    masks = mask_logits.float().sigmoid()
    return (probabilities.T @ masks.flatten(1)).unflatten(1, mask_logits.shape[1:])


def batch_semantic_scores(
    class_logits: Float[Tensor, "batch queries labels_and_null"],
    mask_logits: Float[Tensor, "batch queries height width"],
) -> Float[Tensor, "batch labels height width"]:
    """Computes `semantic_scores` of each image of a batch.

    On a CPU they are those of each image alone to the last bit, on other devices one product.
    """
    if mask_logits.device != CPU:
        return semantic_scores_at_once(class_logits, mask_logits)
    pairs = zip(class_logits, mask_logits, strict=True)
    return torch.stack([semantic_scores(classes, masks) for classes, masks in pairs])


def semantic_scores_at_once(
    class_logits: Float[Tensor, "batch queries labels_and_null"],
    mask_logits: Float[Tensor, "batch queries height width"],
) -> Float[Tensor, "batch labels height width"]:
    """Computes `semantic_scores` of all images in one product."""
    probabilities = class_logits.float().softmax(-1)[:, :, :-1]
    masks = mask_logits.float().sigmoid()
    return torch.bmm(probabilities.mT, masks.flatten(2)).unflatten(2, mask_logits.shape[2:])


def resized_semantic_scores(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth | None = None,
    *,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
) -> Float[Tensor, "labels target_height target_width"]:
    """The scores that `semantic_segmentation` compares, on their device: whole, and so large."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    crop = geometry.whole_crop(mask_logits)
    return crop.made_of(semantic_scores(class_logits, crop.maps)).resized()


def semantic_score_crop(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    target_size: HeightWidth,
    *,
    rows: slice,
    image_size: HeightWidth | None = None,
    padded_size: HeightWidth | None = None,
) -> Crop:
    """Returns the input of some rows of `resized_semantic_scores`, before it is resized."""
    geometry = Geometry.of(
        mask_logits, target_size=target_size, image_size=image_size, padded_size=padded_size
    )
    crop = geometry.crop(mask_logits, rows)
    return crop.made_of(semantic_scores(class_logits, crop.maps))


@dataclass(frozen=True, kw_only=True)
class _LabelBand:
    """Some rows of a label map, and the scores that it was made of, before they were resized."""

    labels: Integer[Tensor, "band target_width"]
    scores: Float[Tensor, "labels height width"]
    rows: InterpolationGrid
    columns: InterpolationGrid

    def shares(self) -> Float[Tensor, "band target_width"]:
        """The share of each pixel's label in the sum of all labels' scores there."""
        height, width = self.scores.shape[1:]
        flat_scores = self.scores.flatten()
        first = self.labels.long() * (height * width)
        weight_right, weight_below = self.columns.weight_after, self.rows.weight_after[:, None]

        def line(rows: Tensor) -> Tensor:
            left, right = (
                flat_scores[first + rows[:, None] * width + columns]
                for columns in (self.columns.before, self.columns.after)
            )
            return left * (1 - weight_right) + right * weight_right

        top = line(self.rows.before) * (1 - weight_below) + line(self.rows.after) * weight_below
        total = bilinear.resample(
            self.scores.sum(0, keepdim=True), rows=self.rows, columns=self.columns
        )[0]
        return top / total.clamp_(min=torch.finfo(total.dtype).tiny)


def _label_bands(
    class_logits: Float[Tensor, "queries labels_and_null"],
    mask_logits: Float[Tensor, "queries height width"],
    geometry: Geometry,
    *,
    byte_budget: int | None,
) -> Iterator[_LabelBand]:
    """The label map from top to bottom, in bands within the budget.

    As published, labels are scored at the size of the network input where something was padded.
    """
    budget = _SCORE_BYTES if byte_budget is None else byte_budget
    num_maps = mask_logits.shape[0] + class_logits.shape[1]
    bytes_per_row = (
        4 * num_maps * math.ceil(math.prod(geometry.source_size) / geometry.target_size[0])
    )
    for crop in geometry.crops(mask_logits, bytes_per_row=bytes_per_row, byte_budget=budget):
        scores = semantic_scores(class_logits, crop.maps)
        labels = mask_argmax_at(
            scores, rows=crop.rows, columns=crop.columns, thresholds=None, byte_budget=byte_budget
        ).winner
        # The shares of a pixel take some numbers of 8 bytes.
        for band in bilinear.bands(
            len(labels), bytes_per_row=96 * geometry.target_size[1], byte_budget=budget
        ):
            yield _LabelBand(
                labels=labels[band], scores=scores, rows=crop.rows[band], columns=crop.columns
            )
